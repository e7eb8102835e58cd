"""A real MLflow server on a free port of the loopback interface."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dit_lab.tracking.mlflow_store import ui_command

SECONDS = 150  # until it answers, beside whatever else a machine does


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def fetch(url: str, body: Any = None) -> str:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return str(answer.read().decode())


def listens(port: int) -> bool:
    try:
        return "OK" in fetch(f"http://127.0.0.1:{port}/health")
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


@contextlib.contextmanager
def serving(
    uri: str, artifact_root: Path, port: int, cwd: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """The server that `dit-lab ui` starts, once it answers; at the end it is killed with all that
    it has started."""
    command, environment = ui_command(uri, artifact_root=artifact_root, port=port)
    server = subprocess.Popen(
        command,
        env=environment,
        cwd=cwd,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + SECONDS
        while not listens(port):
            assert time.monotonic() < deadline and server.poll() is None, "no server"
            time.sleep(0.1)
        yield server
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
