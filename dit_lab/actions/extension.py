"""Extending a run: more steps in a folder of its own, from the full state of the old run."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from dit_lab.core.files import remove_folder
from dit_lab.runs.folder import RunFolder, step_of, steps_in
from dit_lab.runs.metrics import read_metrics, write_metrics


def take_over(parent: RunFolder, folder: RunFolder, checkpoint: Path) -> None:
    """Give a new run the parent's checkpoint, and its metrics and its snapshots of averages up to
    there; the checkpoint comes last.

    Files of a checkpoint never change, so they are shared (hard links) where the disk allows.
    """
    step = step_of(checkpoint)
    rows = [row for row in read_metrics(parent.metrics) if row.step <= step]
    write_metrics(folder.metrics, rows)
    for snapshot in steps_in(parent.averages):
        if step_of(snapshot) <= step:
            _share_folder(snapshot, folder.averages)
    _share_folder(checkpoint, folder.checkpoints)


def _share_folder(source: Path, into: Path) -> None:
    """The same files in a folder of the same name, all of them or none."""
    beside = into / f".writing-{source.name}"
    shutil.rmtree(beside, ignore_errors=True)
    for file in sorted(path for path in source.rglob("*") if path.is_file()):
        target = beside / file.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        _share(file, target)
    remove_folder(into / source.name)  # of a start that was cut off
    os.replace(beside, into / source.name)


def _share(source: Path, target: Path) -> None:
    """As a link where the disk and its owner allow one, else as a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
