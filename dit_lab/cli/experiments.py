"""List the named experiments: what each asks, and how to run it."""

from __future__ import annotations

import argparse

from dit_lab.lab import resources

SHOWS_CHOICES = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments."""


def run(args: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    table = Table("experiment", "question", "command", box=None, pad_edge=False)
    for name, folder in resources.experiments().items():
        table.add_row(name, resources.question(folder), f"dit-lab train experiment={name}")
    Console().print(table)
    return 0
