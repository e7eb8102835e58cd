"""A real MLflow server on a free port of the loopback interface."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from dit_lab.tracking.mlflow_page import ui_command

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
    """Run the server of `dit-lab ui` until it answers.

    At the end, it is killed with all its child processes.
    """
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


class Proxy:
    """A proxy in front of the server on `port`: refuses some requests with 503, and delays each."""

    def __init__(self, port: int) -> None:
        self.refuses: Callable[[str, bytes], bool] = lambda path, body: False
        self.seconds = 0.0
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def pass_on(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                time.sleep(proxy.seconds)
                if proxy.refuses(self.path, body):
                    self.send_response(503)
                    self.end_headers()
                    return
                behind = HTTPConnection("127.0.0.1", port, timeout=30)
                behind.request(self.command, self.path, body, dict(self.headers))
                answer = behind.getresponse()
                content = answer.read()
                self.send_response(answer.status)
                self.send_header("Content-Type", answer.getheader("Content-Type", "text/plain"))
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                with contextlib.suppress(BrokenPipeError):  # who asked has given up
                    self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = pass_on  # noqa: N815

            def log_message(self, *args: Any) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Proxy:
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
