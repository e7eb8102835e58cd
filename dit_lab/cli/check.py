"""Check every image of a dataset before training.

Reports images that cannot be read, are too small or are duplicates, and the images per class.

  dit-lab check dataset=labelled_list dataset.root=imagenet_dataset
  dit-lab check dataset=image_folder dataset.root=photos dataset.image_size=64 out=report.json

Exit code 1 if an image cannot be read or a list of labels contradicts itself. The report (out=)
names all unreadable images.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from dit_lab.cli.arguments import add_overrides, say_own_choices
from dit_lab.config.checks.data import check_declarations, read_facts
from dit_lab.config.checks.machine import check_file
from dit_lab.config.compose import compose_data
from dit_lab.config.schema import CheckConfig
from dit_lab.core.text import counted, say
from dit_lab.data.glance import orientation, transparent_parts
from dit_lab.runs.folder import write_json
from dit_lab.training.stop import StopSignal

if TYPE_CHECKING:
    from dit_lab.core.options import Component
    from dit_lab.core.types import DataFacts
    from dit_lab.data.image_check import Report

SHOWS_CHOICES = False
SHOWN = 10  # paths that are printed of each problem


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_overrides(parser)


def run(args: argparse.Namespace) -> int:
    config = compose_data(CheckConfig, args.overrides, config_dirs=args.config_dir)
    facts = read_facts(config)
    check_declarations(config.dataset, facts)
    if config.out:
        check_file("out=", Path(config.out))
    say_own_choices(args)
    for note in facts.first_look.notes:
        say(f"data: {note}")

    from rich.progress import Progress

    from dit_lab.actions.check import check_images  # torch: seconds
    from dit_lab.tracking.screen import Screen

    total = facts.train_images + facts.validation_images
    console = Screen(width=None, soft_wrap=False)
    with StopSignal() as stop, Progress(transient=True, console=console) as progress:
        bar = progress.add_task("reading", total=total)
        report = check_images(
            config, facts, on_image=lambda: progress.advance(bar), check_stop=stop.check
        )
    _print(report, facts, config.dataset)
    if config.out:
        write_json(Path(config.out), report.as_json())
        say(f"written: {config.out}")
    if facts.first_look.doubt:
        say(f"dit-lab: {facts.first_look.doubt}", file=sys.stderr)
    if report.unreadable:
        say(
            f"dit-lab: {counted(report.unreadable, 'image')} of {total:,} cannot be read",
            file=sys.stderr,
        )
    return 1 if report.unreadable or facts.first_look.doubt else 0


def _print(report: Report, facts: DataFacts, dataset: Component) -> None:
    for name, split in report.splits.items():
        counts = split.class_counts
        classes = (
            f" in {counted(facts.num_classes, 'class')}, {min(counts):,} to {max(counts):,} in a "
            "class" if facts.num_classes else ", without classes"
        )  # fmt: skip
        say(f"{name}: {counted(split.images, 'image')}{classes}")
        for count, meaning in (
            (split.turned, orientation(dataset.exif)),
            (split.transparent, transparent_parts(dataset.transparency)),
            (split.animated, "with several frames: the first is used"),
        ):
            if count:
                say(f"{name}: {count:,} of {counted(split.images, 'image')} {meaning}")
        empty = [facts.class_names[at] for at, count in enumerate(counts) if not count]
        if facts.num_classes and empty:
            _list(f"{name}: classes without an image", empty)
        unreadable = [f"{bad['path']}: {bad['problem']}" for bad in split.unreadable]
        _list(f"{name}: cannot be read", unreadable)
        _list(f"{name}: smaller than {facts.height} x {facts.width}", split.too_small)
    _list("duplicates", [" = ".join(group) for group in report.duplicates])
    _list("in both splits", [" = ".join(group) for group in report.in_both_splits])


def _list(title: str, lines: list[str]) -> None:
    if lines:
        say(f"{title}: {len(lines):,}")
        for line in lines[:SHOWN]:
            say(f"  {line}")
        if len(lines) > SHOWN:
            say(f"  and {len(lines) - SHOWN:,} more")
