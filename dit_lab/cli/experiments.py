"""List the named experiments: question, hardware, time and results.

  dit-lab experiments              all experiments, each with its main result
  dit-lab experiments dit          all measured and published results of one

Run one with `dit-lab train experiment=NAME`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from dit_lab.config import search_path
from dit_lab.core.text import say
from dit_lab.reproduce.catalogue import catalogue, entry
from dit_lab.reproduce.expected import is_measured, read_expected, read_published

if TYPE_CHECKING:
    from dit_lab.reproduce.catalogue import Entry

SHOWS_CHOICES = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "experiment", nargs="?", metavar="EXPERIMENT", help="one experiment (default all)"
    )


def run(args: argparse.Namespace) -> int:
    if args.experiment is None:
        entries = catalogue()
        width = max(len(one.name) for one in entries) + 2
        for one in entries:
            _print_entry(one, width)
        say("dit-lab experiments EXPERIMENT   all its results")
        say("dit-lab reproduce EXPERIMENT     run it again and compare")
        return 0
    folder = search_path.experiment_folder(args.experiment)
    _print_entry(entry(args.experiment, folder), len(args.experiment) + 2)
    _print_numbers(folder)
    return 0


def _print_entry(entry: Entry, width: int) -> None:
    """Print an entry, with its name in a column of this width."""
    known = ": ".join(filter(None, (entry.status, entry.main)))
    lines = (
        entry.header.get("question"),
        "; ".join(filter(None, (entry.takes, known))),
        entry.header.get("command"),
    )
    first, *others = list(filter(None, lines)) or [""]
    say(f"{entry.name:<{width}}{first}")
    for line in others:
        say(f"{'':<{width}}{line}")
    say()


def _print_numbers(folder: Path) -> None:
    from dit_lab.tracking.screen import Screen, table

    console = Screen()
    if is_measured(folder):
        measured = read_expected(folder)["measured"]
        console.print("measured here, mean ± standard deviation over the seeds")
        rows = [
            (label, metric, f"{number['mean']:.4g} ± {number['deviation']:.2g}")
            for label, metrics in measured.items()
            for metric, number in metrics.items()
        ]
        console.print(table(("configuration", "metric", "value"), rows))
    if published := read_published(folder):
        console.print("published by others, not measured here")
        told = [(one.configuration, one.metric, f"{one.value:g}", one.source) for one in published]
        console.print(table(("configuration", "metric", "value", "source"), told))
