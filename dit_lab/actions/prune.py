"""Removal of superfluous checkpoints of finished runs."""

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
    """The checkpoints of a run that were removed, or would be in a dry run."""

    removed: list[int]  # steps
    stay: list[int]  # steps
    needed: list[str]  # runs and sweeps that need one of the remaining checkpoints
    bytes: int  # freed
    left: str = ""  # why the run was not changed


def prune(
    folder: RunFolder,
    *,
    keep: int,
    references: Callable[[], References],
    dry_run: bool = False,
) -> Pruned:
    """Remove the superfluous checkpoints of a finished run.

    The newest `keep` stay, as do those of `training.keep_every_steps` and those that other runs
    need. A run that is not finished, or that a process writes to, is not changed.

    Raises:
        OSError: a checkpoint cannot be removed.
    """
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
    except RequestError as refusal:  # only this run is skipped
        return _left(folder, str(refusal).removeprefix(f"{folder.root}: "))


def prune_held(
    folder: RunFolder,
    *,
    keep: int,
    keep_every_steps: int,
    references: Callable[[], References],
    dry_run: bool = False,
) -> Pruned:
    """Remove superfluous checkpoints as `prune` does, of a run whose lease the caller holds."""
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
    """Return the configs of all runs and sweeps below the run's `paths.root`."""
    return References([root_of(folder)])


def _why_left(folder: RunFolder) -> str:
    if folder.is_exported:
        return "is an exported file, which has no checkpoints"
    if holder := holder_of(folder.lease):
        return holder
    if not may_write(folder.checkpoints):
        return "this user cannot write to it"
    if (status := read_status(folder).get("status", "has no status")) != FINISHED:
        return f"{status}, so it may still be resumed"
    return ""


def _damage_of(checkpoints: list[Path]) -> str:
    """Verify the checkpoints that are to stay; return "" or the damage."""
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
