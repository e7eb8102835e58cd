"""Serve the MLflow page of the recorded runs on this machine, until Ctrl-C.

dit-lab ui
dit-lab ui paths.root=outputs --port 5001
"""

from __future__ import annotations

import argparse
import os
import socket
from pathlib import Path

from dit_lab.config.compose import compose_train
from dit_lab.core import trust
from dit_lab.core.errors import RequestError
from dit_lab.core.text import say
from dit_lab.tracking.addresses import check_uri, is_local, not_contacted
from dit_lab.tracking.mlflow_store import check_answers, newest_pages, ui_command

SHOWS_CHOICES = False
HOST = "127.0.0.1"


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
    address = f"http://{HOST}:{args.port}"
    say(f"MLflow page: {address} (Ctrl-C ends it)")
    for experiment, page in newest_pages(uri, address=address).items():
        say(f"  {experiment}: {page}")
    os.execve(command[0], command, environment)
