"""Extension of a run: more steps in a new run folder, from the full state of the old run."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from dit_lab.core.files import remove_folder
from dit_lab.runs.folder import RunFolder, step_of, steps_in
from dit_lab.runs.metrics import read_metrics, write_metrics


def take_over(parent: RunFolder, folder: RunFolder, checkpoint: Path) -> None:
    """Copy a checkpoint, and the parent's metrics and EMA snapshots up to it, to a new run.

    Files of checkpoints never change, so they are hard-linked if the file system allows it.
    """
    step = step_of(checkpoint)
    rows = [row for row in read_metrics(parent.metrics) if row.step <= step]
    write_metrics(folder.metrics, rows)
    for snapshot in steps_in(parent.averages):
        if step_of(snapshot) <= step:
            _share_folder(snapshot, folder.averages)
    _share_folder(checkpoint, folder.checkpoints)


def _share_folder(source: Path, into: Path) -> None:
    """Link or copy a folder into another one, atomically."""
    beside = into / f".writing-{source.name}"
    shutil.rmtree(beside, ignore_errors=True)
    for file in sorted(path for path in source.rglob("*") if path.is_file()):
        target = beside / file.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        _share(file, target)
    remove_folder(into / source.name)  # left by an interrupted start
    os.replace(beside, into / source.name)


def _share(source: Path, target: Path) -> None:
    """Hard-link a file, or copy it if linking fails."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
