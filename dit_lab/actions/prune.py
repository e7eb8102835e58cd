"""Removing checkpoints that a finished run no longer needs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from dit_lab.actions.references import References
from dit_lab.config.recorded import root_of
from dit_lab.config.yaml_files import read_config
from dit_lab.core.errors import RequestError
from dit_lab.core.files import may_write
from dit_lab.runs.folder import FINISHED, RunFolder, read_status, step_of
from dit_lab.runs.keeping import complete_in, freed_by, remove_whole, superfluous
from dit_lab.runs.lock import Lease, holder_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """What was removed of a run, or would be."""

    removed: list[int]  # steps
    stay: list[int]
    needed: list[str]  # why some of those stay, in words
    bytes: int  # that are free now
    left: str = ""  # why the run was left as it is


def prune(
    folder: RunFolder,
    *,
    keep: int,
    references: Callable[[], References],
    dry_run: bool = False,
) -> Pruned:
    """Remove all checkpoints of a finished run but the newest `keep`, those that its configuration
    keeps for good, and those that other runs need. A run that somebody writes to, or that may still
    go on, is left alone. Raises OSError."""
    try:
        if why := _why_left(folder):
            return _left(folder, why)
        every = read_config(folder)["training"].get("keep_every_steps", 0)
        with nullcontext() if dry_run else Lease(folder.lease):
            return prune_held(
                folder,
                keep=keep,
                keep_every_steps=every,
                references=references,
                dry_run=dry_run,
            )
    except RequestError as refusal:  # of this run; the others are seen
        return _left(folder, str(refusal).removeprefix(f"{folder.root}: "))


def prune_held(
    folder: RunFolder,
    *,
    keep: int,
    keep_every_steps: int,
    references: Callable[[], References],
    dry_run: bool = False,
) -> Pruned:
    """The same of a run whose lease is held, whatever its status."""
    if not superfluous(folder, keep=keep, keep_every_steps=keep_every_steps):
        return _left(folder, "")
    needed = [one for one in references().to(folder) if one.path != folder.root.resolve()]
    going = superfluous(
        folder,
        keep=keep,
        keep_every_steps=keep_every_steps,
        wanted=[one.path for one in needed],
    )
    staying = [path for path in complete_in(folder) if path not in going]
    if damage := _damage_of(staying[-keep:]):
        return _left(folder, f"{damage}, so that earlier checkpoints may be needed")
    freed = freed_by(going)
    for checkpoint in [] if dry_run else going:
        remove_whole(checkpoint)
    return Pruned(
        removed=[step_of(path) for path in going],
        stay=[step_of(path) for path in staying],
        needed=[one.told for one in needed],
        bytes=freed,
    )


def references_below(folder: RunFolder) -> References:
    """The runs that may need a run: those of the same `paths.root`."""
    return References([root_of(folder)])


def _why_left(folder: RunFolder) -> str:
    if folder.is_exported:
        return "is an exported file, which has no checkpoints"
    if holder := holder_of(folder.lease):
        return holder
    if not may_write(folder.checkpoints):
        return "this user cannot write to it"
    if (status := read_status(folder).get("status", "has no status")) != FINISHED:
        return f"{status}, so that it may still go on"
    return ""


def _damage_of(checkpoints: list[Path]) -> str:
    """What is wrong with the checkpoints that are to stay; "" where they are whole."""
    from dit_lab.training.checkpoint import Checkpoint, DamagedCheckpoint  # torch: seconds

    for path in checkpoints:
        try:
            Checkpoint(path).verify()
        except DamagedCheckpoint as damage:
            return f"damaged: {damage}"
    return ""


def _left(folder: RunFolder, why: str) -> Pruned:
    stay = [step_of(path) for path in complete_in(folder)]
    return Pruned(removed=[], stay=stay, needed=[], bytes=0, left=why)
