"""Arguments that several verbs share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

from dit_lab.config.search_path import own_choices
from dit_lab.core.errors import RequestError
from dit_lab.core.text import local_path, say


def path(text: str) -> Path:
    """Convert a path of the command line, as a `type` of argparse."""
    try:
        return local_path(text, "")
    except RequestError as refusal:
        raise argparse.ArgumentTypeError(str(refusal)) from None


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Add the overrides of a composed config, and `--config-dir`."""
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="overrides of the config")
    add_config_dir(parser)


def say_own_choices(args: argparse.Namespace, notes: Iterable[str] = ()) -> None:
    """Print to standard error which user-defined groups and experiments are used, and `notes`.

    Called once the request has been checked, since an error message is a single line.
    """
    own = own_choices(args.config_dir)
    for line in (*([own] if own else []), *notes):
        say(f"dit-lab: {line}", sys.stderr)


def add_config_dir(parser: argparse.ArgumentParser) -> None:
    """Add `--config-dir FOLDER`, which may be repeated."""
    parser.add_argument(
        "--config-dir",
        type=path,
        action="append",
        default=[],
        help="a folder of user-defined config groups",
    )
