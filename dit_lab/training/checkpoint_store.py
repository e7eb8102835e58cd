"""Checkpoints that are whole or not there: written beside, synced, renamed, then marked COMPLETE.

Old ones go only when a newer one is written and whole.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from dit_lab.training.checkpoint import MARKER, Checkpoint, DamagedCheckpoint, hash_of

RETRY_AFTER_SECONDS = (1, 4, 15)
LASTING = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}

Tensors = Mapping[str, Mapping[str, Tensor]]


class CheckpointNotWritten(Exception):  # noqa: N818 - says what is wrong with the disk
    """A checkpoint that the disk does not take, after several attempts."""


class CheckpointStore:
    """The `checkpoints/` folder of a run."""

    def __init__(
        self,
        folder: Path,
        *,
        run: str,
        ancestors: Collection[str] = (),
        keep_last: int | None = None,
        keep_every_steps: int = 0,
        warn: Callable[[str], None],
    ) -> None:
        """`run` is the run's hash, kept with each checkpoint; `ancestors` those it goes on from.

        With `keep_last`, a save removes all but that many checkpoints, the new one included, and
        those of every `keep_every_steps`-th step.
        """
        self._folder = folder
        self._run, self._ancestors = run, ancestors
        self._keep_last, self._keep_every_steps = keep_last, keep_every_steps
        self._warn = warn

    def save(self, step: int, *, tensors: Tensors, state: Mapping[str, Any]) -> Checkpoint:
        """Write `tensors[name]` to `<name>.safetensors` and `state` to state.json, atomically.

        A whole checkpoint of this step is left as it is: it is the one that training resumed from
        or has just written, and to replace it would risk it for nothing. What may be over in a
        moment is tried again; `CheckpointNotWritten` where it is not.
        """
        checkpoint = Checkpoint(self._folder / f"step-{step:08d}")
        with suppress(DamagedCheckpoint):
            self.verify(checkpoint)
            return checkpoint
        for seconds in (*RETRY_AFTER_SECONDS, None):
            try:
                self._clear()
                self._check_room(tensors)
                self._write(checkpoint.path, tensors, {**state, "run": self._run})
                break
            except OSError as error:
                if seconds is None or error.errno in LASTING:
                    raise self._not_written(step, error) from error
                self._warn(f"step {step} is not saved yet ({error}); once more in {seconds} s")
                time.sleep(seconds)
        self._remove_old(checkpoint)
        return checkpoint

    def _clear(self) -> None:
        """Remove what a process that was killed left half written or half removed."""
        for leftover in (*self._folder.glob(".writing-*"), *self._folder.glob(".removing-*")):
            shutil.rmtree(leftover)

    def _check_room(self, tensors: Tensors) -> None:
        """OSError where the disk has less room than the tensors take."""
        self._folder.mkdir(parents=True, exist_ok=True)
        needed = sum(tensor.nbytes for group in tensors.values() for tensor in group.values())
        disk = shutil.disk_usage(self._folder)
        if disk.total and disk.free < needed:  # some network file systems say nothing
            found = f"{needed / 1e6:,.1f} MB are needed, {disk.free / 1e6:,.1f} MB are free"
            raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {found}")

    def _not_written(self, step: int, error: OSError) -> CheckpointNotWritten:
        whole = self._whole_steps()
        last = f"from step {max(whole)}" if whole else "from the start"
        return CheckpointNotWritten(
            f"{self._folder}: step {step} could not be saved ({error.strerror or error}); mend "
            f"that and give the same command again, which goes on {last}"
        )

    def _whole_steps(self) -> set[int]:
        """Steps of this run's checkpoints that were finished, whatever became of them since."""
        return {
            checkpoint.step
            for checkpoint in map(Checkpoint, self._folder.glob("step-*"))
            if checkpoint.is_complete and self._is_ours(checkpoint)
        }

    def _remove_old(self, newest: Checkpoint) -> None:
        """Remove what need not be kept; `newest` is whole. A kill leaves no half of any."""
        if self._keep_last is None:
            return
        steps = sorted(step for step in self._whole_steps() if step <= newest.step)
        for step in steps[: -self._keep_last]:
            if self._keep_every_steps and step % self._keep_every_steps == 0:
                continue
            going = self._folder / f".removing-step-{step:08d}"
            try:
                os.replace(self._folder / f"step-{step:08d}", going)
                shutil.rmtree(going)
            except OSError as error:  # the next save tries again
                self._warn(f"step {step} could not be removed ({error})")

    def _write(self, final: Path, tensors: Tensors, state: Mapping[str, Any]) -> None:
        """A whole checkpoint at `final`, or nothing."""
        beside = self._folder / f".writing-{final.name}"
        try:
            self._write_files(beside, tensors, state)
            shutil.rmtree(final, ignore_errors=True)  # a damaged one that was skipped
            os.replace(beside, final)
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)  # a full disk needs the room
            raise
        sync(self._folder)
        os.replace(final / f".{MARKER}", final / MARKER)
        sync(final)

    def _write_files(self, beside: Path, tensors: Tensors, state: Mapping[str, Any]) -> None:
        """Every file of a checkpoint, synced; the marker still under another name."""
        for name, group in tensors.items():
            file = beside / f"{name}.safetensors"
            file.parent.mkdir(parents=True, exist_ok=True)
            _save_file(group, file)
        (beside / "state.json").write_text(json.dumps(state, indent=2, sort_keys=True) + "\n")
        files = sorted(path for path in beside.rglob("*") if path.is_file())
        listed = {
            str(file.relative_to(beside)): {"bytes": file.stat().st_size, "blake2b": hash_of(file)}
            for file in files
        }
        (beside / f".{MARKER}").write_text(json.dumps(listed, indent=2, sort_keys=True) + "\n")
        for file in [*files, beside / f".{MARKER}"]:
            sync(file)

    def verify(self, checkpoint: Checkpoint) -> None:
        """Raise DamagedCheckpoint unless the checkpoint is whole and of this run."""
        checkpoint.verify()
        if not self._is_ours(checkpoint):
            run = checkpoint.state().get("run")
            raise DamagedCheckpoint(f"{checkpoint.path}: of another run ({run})")

    def _is_ours(self, checkpoint: Checkpoint) -> bool:
        try:
            run = checkpoint.state().get("run")
        except (OSError, ValueError, AttributeError):  # damaged: nobody knows
            return False
        return run == self._run or run in self._ancestors

    def latest(self) -> Checkpoint | None:
        """The newest whole checkpoint; damaged ones are named and skipped."""
        for path in sorted(self._folder.glob("step-*"), reverse=True):
            checkpoint = Checkpoint(path)
            try:
                self.verify(checkpoint)
            except DamagedCheckpoint as damage:
                self._warn(f"skipped a checkpoint: {damage}")
            else:
                return checkpoint
        return None


def _save_file(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Write a safetensors file; OSError where the disk does not take it."""
    try:
        save_file(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, file
        )
    except SafetensorError as error:  # which is how it says what the system said
        number = int(found[1]) if (found := re.search(r"os error (\d+)", str(error))) else 0
        raise OSError(number, os.strerror(number) if number else str(error), str(file)) from error


def sync(path: Path) -> None:
    """Force a file's content, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
