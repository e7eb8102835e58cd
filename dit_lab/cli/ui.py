"""Serve the MLflow page of the runs on this machine, until Ctrl-C.

  dit-lab ui
  dit-lab ui paths.root=outputs --port 5001

By default it shows the local store in outputs/.
"""

from __future__ import annotations

import argparse
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from dit_lab.config.compose import compose_train
from dit_lab.core import trust
from dit_lab.core.errors import RequestError
from dit_lab.core.text import say
from dit_lab.tracking.addresses import check_uri, is_local, not_contacted
from dit_lab.tracking.mlflow_page import newest_pages, ui_command
from dit_lab.tracking.mlflow_store import check_answers

SHOWS_CHOICES = False
HOST = "127.0.0.1"
ANSWER_SECONDS = 300.0  # a busy machine takes minutes to import MLflow
END_SECONDS = 10.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="paths.root, tracking.uri"
    )
    parser.add_argument("--port", type=int, default=5000, help="default: %(default)s")


def run(args: argparse.Namespace) -> int:
    config = compose_train(args.overrides)
    uri, root = config.tracking.uri, Path(config.paths.root)
    check_uri(uri)
    if not trust.may_contact(uri):
        raise RequestError(f"tracking.uri={not_contacted(uri)}")
    if is_local(uri) and not trust.sqlite_path(uri).exists():
        raise RequestError(f"tracking.uri={uri}: no such file; train something first")
    command, environment = ui_command(
        uri, artifact_root=root / "mlartifacts", host=HOST, port=args.port
    )
    if not 0 < args.port < 2**16:
        raise RequestError(f"--port {args.port}: no port; give one from 1 to 65535")
    with socket.socket() as probe:
        if probe.connect_ex((HOST, args.port)) == 0:
            raise RequestError(f"--port {args.port}: taken; give another")
    check_answers(uri)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # SIGTERM must end the server too
    return _serve(command, environment, uri=uri, address=f"http://{HOST}:{args.port}")


def _serve(
    command: Sequence[str], environment: Mapping[str, str], *, uri: str, address: str
) -> int:
    """Run the server, print the pages once it answers, and return the exit code."""
    server = subprocess.Popen(command, env=environment)
    try:
        say(f"the MLflow server starts on {address}")
        if trouble := _wait_for_answer(server, address):
            say(f"dit-lab: {trouble}; its output is above", sys.stderr)
            return 1
        say("MLflow page (Ctrl-C ends it):")
        for experiment, page in newest_pages(uri, address=address).items():
            say(f"  {experiment}: {page}")
        return server.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        _end(server)


def _wait_for_answer(server: subprocess.Popen[bytes], address: str) -> str:
    """Wait for the server; return "" once it answers, or why it does not."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + ANSWER_SECONDS
    while time.monotonic() < deadline:
        with suppress(OSError):
            direct.open(f"{address}/health", timeout=5).close()
            return ""
        if (code := server.poll()) is not None:
            return f"the MLflow server ended with exit code {code} before it answered"
        time.sleep(0.2)
    return f"the MLflow server has not answered in {ANSWER_SECONDS:.0f} s and is ended"


def _end(server: subprocess.Popen[bytes]) -> None:
    """End the server and its child processes."""
    server.send_signal(signal.SIGINT)
    try:
        server.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        server.kill()
