"""List the named experiments: what each asks and takes, and what is known of it.

dit-lab experiments              all of them, each with its main number
dit-lab experiments dit          every number of one, measured and published
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from dit_lab.lab import resources

SHOWS_CHOICES = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("experiment", nargs="?", metavar="EXPERIMENT", help="all unless given")


def run(args: argparse.Namespace) -> int:
    if args.experiment is None:
        for name, folder in resources.experiments().items():
            _print_entry(name, folder)
        print("dit-lab experiments EXPERIMENT   all of its numbers")
        print("dit-lab reproduce EXPERIMENT     does it again and compares")
        return 0
    folder = resources.experiment_folder(args.experiment)
    _print_entry(args.experiment, folder)
    _print_numbers(folder)
    return 0


def _print_entry(name: str, folder: Path) -> None:
    header = resources.header(folder)
    takes = ", ".join(header[key] for key in ("hardware", "time") if key in header)
    known = "; ".join(filter(None, (takes, _status(folder))))
    lines = filter(None, (header.get("question"), known, header.get("command")))
    print(f"{name:<16}", f"\n{'':<16}".join(lines), sep="", end="\n\n")


def _status(folder: Path) -> str:
    """Whether something was recorded, and the number that it is judged by."""
    from dit_lab.lab.expected import ONE, is_measured, read_expected, read_published

    published = read_published(folder)
    if not is_measured(folder):
        if not published:
            return "not recorded"
        metric = published[0].metric
        values = [one.value for one in published if one.metric == metric]
        return f"published, not measured here: {metric} {min(values):g} to {max(values):g}"
    expected = read_expected(folder)
    recorded = expected["recorded"]
    label, metric, number = _main_number(expected["measured"])
    of = "" if label == ONE else f"best of {len(expected['measured'])}, {label}: "
    return (
        f"recorded {recorded['date']} by {len(recorded['seeds'])} seeds: {of}{metric} "
        f"{number['mean']:.3f} ± {number['deviation']:.3f}"
    )


def _main_number(measured: dict[str, Any]) -> tuple[str, str, dict[str, Any]]:
    """The best configuration by the metric that experiments are judged by, that and its value."""
    from dit_lab.lab.judging import is_lower_better, leading_metric

    metric = leading_metric(next(iter(measured.values())))
    sign = 1 if is_lower_better(metric) else -1
    best = min(measured, key=lambda label: sign * measured[label][metric]["mean"])
    return best, metric, measured[best][metric]


def _print_numbers(folder: Path) -> None:
    from rich.console import Console

    from dit_lab.cli.tables import LONGEST_LINE, columns
    from dit_lab.lab.expected import is_measured, read_expected, read_published

    console = Console(soft_wrap=True, width=LONGEST_LINE, markup=False)
    if is_measured(folder):
        measured = read_expected(folder)["measured"]
        console.print("measured here, mean ± standard deviation over the seeds")
        rows = [
            (label, metric, f"{number['mean']:.4g} ± {number['deviation']:.2g}")
            for label, metrics in measured.items()
            for metric, number in metrics.items()
        ]
        console.print(columns(("configuration", "metric", "value"), rows))
    if published := read_published(folder):
        console.print("published by others, not measured here")
        told = [(one.configuration, one.metric, f"{one.value:g}", one.source) for one in published]
        console.print(columns(("configuration", "metric", "value", "source"), told))
