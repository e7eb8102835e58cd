"""Extending a run: more steps in a folder of its own, from the full state of the old run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dit_lab.lab.config import read_recorded
from dit_lab.lab.identity import deciding, difference, is_forced, parent_run, recorded
from dit_lab.lab.trust import load_component
from dit_lab.runs import RunFolder, read_metrics, write_metrics
from dit_lab.types import RequestError

Config = Mapping[str, Any]

END = "training.total_steps"


def check_extension(config: Config, now: Mapping[str, Any]) -> None:
    """Raise RequestError where more steps of the parent would not be what `config` describes.

    `resume=force:RUN` goes on where something differs, never backwards.
    """
    parent = parent_run(config)
    if parent is None:
        return
    start = f"resume={parent.root}"
    newest = newest_checkpoint(parent)
    if newest is None:
        raise RequestError(f"{start}: has no checkpoint to go on from")
    step, total = int(newest.name.removeprefix("step-")), config["training"]["total_steps"]
    if total <= step:
        raise RequestError(f"{start}: is at step {step}; give {END} above that, not {total}")
    if not is_forced(config) and (why := _other_training(config, parent, now)):
        raise RequestError(f"{start}: {why}; resume=force:{parent.root} goes on regardless")


def _other_training(config: Config, parent: RunFolder, now: Mapping[str, Any]) -> str:
    """What makes this another training than the parent's, in words, or ""."""
    before = deciding(read_recorded(parent, config["trusted_modules"]))
    after = deciding(config)
    changed = sorted(
        key
        for key in before.keys() | after.keys()
        if key != END and before.get(key) != after.get(key)
    )
    if changed:
        key = changed[0]
        more = f" (and {len(changed) - 1} more keys)" if len(changed) > 1 else ""
        return f"{key} was {before.get(key)} and is {after.get(key)} here{more}"
    if why := difference(recorded(parent), now):
        return why
    schedule = config["schedule"]["_target_"]
    component = load_component(
        schedule, trusted_modules=config["trusted_modules"], key="schedule._target_"
    )
    depends_on_end = getattr(component, "depends_on_end", True)  # a schedule of the user's own
    if depends_on_end and before[END] != after[END]:
        return (
            f"schedule={config['choices']['schedule']} depends on {END}, so a run of {after[END]} "
            f"steps is not one of {before[END]} steps with more after it"
        )
    return ""


def newest_checkpoint(folder: RunFolder) -> Path | None:
    """The newest checkpoint that was completed; whether it still is whole shows when it is read."""
    complete = sorted(marker.parent for marker in folder.checkpoints.glob("step-*/COMPLETE"))
    return complete[-1] if complete else None


def take_over(parent: RunFolder, folder: RunFolder, checkpoint: Path) -> None:
    """Give a new run the parent's checkpoint and its metrics up to there; the marker comes last.

    Files of a checkpoint never change, so they are shared (hard links) where the disk allows.
    """
    step = int(checkpoint.name.removeprefix("step-"))
    rows = [row for row in read_metrics(parent.metrics) if row.step <= step]
    write_metrics(folder.metrics, rows)
    beside = folder.checkpoints / f".writing-{checkpoint.name}"
    shutil.rmtree(beside, ignore_errors=True)
    shutil.copytree(checkpoint, beside, copy_function=_share)
    os.replace(beside, folder.checkpoints / checkpoint.name)


def _share(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
