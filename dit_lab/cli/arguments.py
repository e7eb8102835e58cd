"""Arguments that several verbs take."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

from dit_lab.config.search_path import own_choices
from dit_lab.core.errors import RequestError
from dit_lab.core.text import local_path, say


def path(text: str) -> Path:
    """A path on the command line, for argparse, which says of which option it is."""
    try:
        return local_path(text, "")
    except RequestError as refusal:
        raise argparse.ArgumentTypeError(str(refusal)) from None


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """KEY=VALUE of a configuration that is composed, and --config-dir."""
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="groups and keys to set")
    add_config_dir(parser)


def say_own_choices(args: argparse.Namespace, notes: Iterable[str] = ()) -> None:
    """Say on standard error what the user's own groups and experiments mean for the command, and
    what of a recipe does not apply (`notes`). It is called when the request was found to be right:
    a refusal is one line."""
    own = own_choices(args.config_dir)
    for line in (*([own] if own else []), *notes):
        say(f"dit-lab: {line}", sys.stderr)


def add_config_dir(parser: argparse.ArgumentParser) -> None:
    """`--config-dir FOLDER`, any number of times."""
    parser.add_argument(
        "--config-dir", type=path, action="append", default=[], help="a folder of your own groups"
    )
