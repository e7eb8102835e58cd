"""Atomic writing of checkpoints: written to a temporary folder, synced, renamed, marked COMPLETE.

Old checkpoints are removed only after a newer one is complete.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from dit_lab.core.files import remove_folder, sync, to_json
from dit_lab.core.process_group import SINGLE_PROCESS
from dit_lab.core.types import ProcessGroup
from dit_lab.runs.folder import steps_in
from dit_lab.runs.keeping import GOING, remove_whole
from dit_lab.training.checkpoint import (
    MARKER,
    MEASURED,
    Checkpoint,
    DamagedCheckpoint,
    Measured,
    hash_of,
)
from dit_lab.training.tensor_files import Rows, rows_of, write_tensors

RETRY_AFTER_SECONDS = (1, 4, 15)
LASTING = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}

Tensors = Mapping[str, Mapping[str, Tensor | Rows]]
"""Group name -> tensors by name, or this process's rows of them."""

Listed = dict[str, dict[str, Any]]  # file -> bytes and hash


class CheckpointNotWritten(Exception):  # noqa: N818 - says what is wrong with the disk
    """A checkpoint could not be written to disk, after several attempts."""


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
        resumes: bool = True,
        process_group: ProcessGroup = SINGLE_PROCESS,
        warn: Callable[[str], None],
    ) -> None:
        """Open the folder; nothing is created yet.

        Args:
            folder: folder of the checkpoints.
            run: hash of the run, stored in each checkpoint.
            ancestors: hashes of runs whose checkpoints this run can resume from.
            keep_last: number of newest checkpoints to keep, the new one included; None keeps all.
            keep_every_steps: also keep checkpoints of multiples of this step; 0 for none.
            resumes: whether training resumes from this folder, for the error message.
            process_group: processes that save together, each what it holds.
            warn: receives warnings.
        """
        self._folder = folder
        self._run, self._ancestors = run, ancestors
        self._keep_last, self._keep_every_steps = keep_last, keep_every_steps
        self._resumes = resumes
        self._team = process_group
        self._warn = warn

    def save(self, step: int, *, tensors: Tensors, state: Mapping[str, Any]) -> Checkpoint:
        """Write the tensor groups and the state atomically.

        An intact checkpoint of this step is kept as it is: training resumed from it or has just
        written it, and replacing it would put it at risk. Transient errors are retried.

        Raises:
            CheckpointNotWritten: all attempts failed, or the error is not transient.
        """
        checkpoint = Checkpoint(self._folder / f"step-{step:08d}")
        if self._team.first(lambda: self._is_whole(checkpoint)):
            return checkpoint
        held = {
            name: {key: rows_of(tensor) for key, tensor in group.items()}
            for name, group in tensors.items()
        }
        for seconds in (*RETRY_AFTER_SECONDS, None):
            try:
                self._write(checkpoint.path, held, {**state, "run": self._run})
                break
            except OSError as error:
                if seconds is None or error.errno in LASTING:
                    raise self._not_written(step, error) from error
                self._warn(f"step {step} could not be saved ({error}); retrying in {seconds} s")
                time.sleep(seconds)
        self._team.first(lambda: self._remove_old(checkpoint))
        return checkpoint

    def note(self, step: int, measured: Measured) -> None:
        """Store the evaluations of a step with its checkpoint, if there is one."""
        checkpoint = Checkpoint(self._folder / f"step-{step:08d}")
        if self._team.index == 0 and checkpoint.is_complete:
            beside = checkpoint.path / f".{MEASURED}"
            _write_json(beside, measured)
            sync(beside)
            os.replace(beside, checkpoint.path / MEASURED)
            sync(checkpoint.path)

    def _is_whole(self, checkpoint: Checkpoint) -> bool:
        with suppress(DamagedCheckpoint):
            self.verify(checkpoint)
            return True
        return False

    def _clear(self) -> None:
        """Remove incomplete folders that a killed process left behind."""
        for leftover in (*self._folder.glob(".writing-*"), *self._folder.glob(f"{GOING}*")):
            remove_folder(leftover)

    def _check_room(self, tensors: Mapping[str, Mapping[str, Rows]]) -> None:
        """Raise OSError if the disk has less free space than the tensors need."""
        self._folder.mkdir(parents=True, exist_ok=True)
        needed = sum(rows.whole_bytes for group in tensors.values() for rows in group.values())
        disk = shutil.disk_usage(self._folder)
        if disk.total and disk.free < needed:  # some network file systems report 0
            found = f"{needed / 1e6:,.1f} MB are needed, {disk.free / 1e6:,.1f} MB are free"
            raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {found}")

    def _not_written(self, step: int, error: OSError) -> CheckpointNotWritten:
        whole = self._whole_steps()
        last = f"from step {max(whole)}" if whole else "from the start"
        if not self._resumes:
            last = "from its newest checkpoint"
        return CheckpointNotWritten(
            f"{self._folder}: step {step} could not be saved ({error.strerror or error}); fix "
            f"this and run the same command again, which continues {last}"
        )

    def _whole_steps(self) -> set[int]:
        """Return the steps of this run's complete checkpoints, without verifying their files."""
        return {
            checkpoint.step
            for checkpoint in map(Checkpoint, steps_in(self._folder))
            if checkpoint.is_complete and self._is_ours(checkpoint)
        }

    def _remove_old(self, newest: Checkpoint) -> None:
        """Remove checkpoints that need not be kept, each atomically; `newest` is intact."""
        if self._keep_last is None:
            return
        steps = sorted(step for step in self._whole_steps() if step <= newest.step)
        for step in steps[: -self._keep_last]:
            if self._keep_every_steps and step % self._keep_every_steps == 0:
                continue
            try:
                remove_whole(self._folder / f"step-{step:08d}")
            except OSError as error:  # the next save tries again
                self._warn(f"step {step} could not be removed ({error})")

    def _write(
        self, final: Path, tensors: Mapping[str, Mapping[str, Rows]], state: Mapping[str, Any]
    ) -> None:
        """Write a complete checkpoint at `final` or nothing; every process writes what it holds."""
        beside = self._folder / f".writing-{final.name}"

        def prepare() -> None:
            self._clear()
            self._check_room(tensors)

        try:
            self._team.first(prepare)
            listed = self._team.every(lambda: self._write_tensors(beside, tensors))
            self._team.first(lambda: self._finish(beside, final, state, listed))
        except BaseException:
            if self._team.index == 0:
                shutil.rmtree(beside, ignore_errors=True)  # frees space on a full disk
            raise

    def _write_tensors(self, beside: Path, tensors: Mapping[str, Mapping[str, Rows]]) -> Listed:
        """Write and sync the files of this process."""
        process_group, files = self._team, []
        for name, group in tensors.items():
            files += write_tensors(
                beside, name, group, index=process_group.index, size=process_group.size
            )
        return _listed(beside, files)

    def _finish(
        self, beside: Path, final: Path, state: Mapping[str, Any], listed: Sequence[Listed]
    ) -> None:
        """Write the scalars and the list of all files, rename the folder, then add its marker."""
        scalars, marker = beside / "state.json", beside / f".{MARKER}"
        _write_json(scalars, state)
        files = {file: facts for of_one in listed for file, facts in of_one.items()}
        _write_json(marker, files | _listed(beside, [scalars]))
        sync(marker)
        remove_folder(final)  # a damaged checkpoint that was skipped
        os.replace(beside, final)
        sync(self._folder)
        os.replace(final / f".{MARKER}", final / MARKER)
        sync(final)

    def verify(self, checkpoint: Checkpoint) -> None:
        """Raise DamagedCheckpoint unless the checkpoint is intact and belongs to this run."""
        checkpoint.verify()
        if not self._is_ours(checkpoint):
            run = checkpoint.state().get("run")
            raise DamagedCheckpoint(f"{checkpoint.path}: of another run ({run})")

    def _is_ours(self, checkpoint: Checkpoint) -> bool:
        try:
            run = checkpoint.state().get("run")
        except DamagedCheckpoint:  # unknown run
            return False
        return run == self._run or run in self._ancestors

    def latest(self) -> Checkpoint | None:
        """Return the newest intact checkpoint; warn about damaged ones and skip them."""
        for path in reversed(steps_in(self._folder)):
            checkpoint = Checkpoint(path)
            try:
                self.verify(checkpoint)
            except DamagedCheckpoint as damage:
                self._warn(f"skipped a checkpoint: {damage}")
            else:
                return checkpoint
        return None


def _listed(folder: Path, files: Sequence[Path]) -> Listed:
    """Sync files and return their marker entries, relative to a folder."""
    for file in files:
        sync(file)
    return {
        str(file.relative_to(folder)): {"bytes": file.stat().st_size, "blake2b": hash_of(file)}
        for file in files
    }


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(to_json(content, indent=2) + "\n")
