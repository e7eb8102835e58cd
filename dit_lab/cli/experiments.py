"""List the named experiments: what each asks and takes, and whether its numbers are recorded."""

from __future__ import annotations

import argparse
from pathlib import Path

from dit_lab.lab import resources

SHOWS_CHOICES = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments."""


def run(args: argparse.Namespace) -> int:
    for name, folder in resources.experiments().items():
        header = resources.header(folder)
        takes = ", ".join(header[key] for key in ("hardware", "time") if key in header)
        lines = (header.get("question", ""), f"{takes}; {_recorded(folder)}", header.get("command"))
        print(f"{name:<12} ", f"\n{'':<13} ".join(filter(None, lines)), sep="", end="\n\n")
    print("what is recorded: dit-lab reproduce EXPERIMENT does it again and compares")
    return 0


def _recorded(experiment: Path) -> str:
    """Whether something was recorded, and the number that it is judged by."""
    from dit_lab.lab.expected import FILE, ONE, read_expected
    from dit_lab.lab.judging import leading_metric

    if not (experiment / FILE).exists():
        return "not recorded"
    expected = read_expected(experiment)
    recorded, measured = expected["recorded"], expected["measured"]
    status = f"recorded {recorded['date']} by {len(recorded['seeds'])} seeds"
    if list(measured) != [ONE]:
        return f"{status}, {len(measured)} configurations"
    name = leading_metric(measured[ONE])
    number = measured[ONE][name]
    return f"{status}: {name} {number['mean']:.3f} ± {number['deviation']:.3f}"
