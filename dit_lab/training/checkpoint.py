"""Checkpoints that are whole or not there: written beside, synced, renamed, then marked COMPLETE.

    checkpoints/step-00001000/
        model.safetensors  ema-0.9999.safetensors  optimizer/state.safetensors  state.json  COMPLETE

`COMPLETE` lists size and hash of every file. No pickle: tensors in safetensors, scalars in JSON.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dit_lab.types import RequestError

MARKER = "COMPLETE"


class DamagedCheckpoint(Exception):  # noqa: N818 - says what it found
    """A checkpoint folder that is incomplete, foreign, or does not hold what its marker says."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A complete checkpoint on disk. Files are verified against the marker by `verify`."""

    path: Path

    @property
    def step(self) -> int:
        return int(self.path.name.removeprefix("step-"))

    def verify(self) -> None:
        """Raise DamagedCheckpoint, naming the file, unless every byte is as it was written."""
        for file, (size, digest) in self._listed().items():
            if not file.is_file():
                raise DamagedCheckpoint(f"{file}: missing")
            if file.stat().st_size != size:
                raise DamagedCheckpoint(f"{file}: {file.stat().st_size} bytes, not {size}")
            if _hash(file) != digest:
                raise DamagedCheckpoint(f"{file}: content differs from what was written")

    def _listed(self) -> dict[Path, tuple[int, str]]:
        """What the marker says: file -> (bytes, hash)."""
        try:
            listed = json.loads((self.path / MARKER).read_bytes())
            return {self.path / name: (of["bytes"], of["blake2b"]) for name, of in listed.items()}
        except FileNotFoundError:
            raise DamagedCheckpoint(f"{self.path}: incomplete (no {MARKER})") from None
        except (ValueError, TypeError, KeyError, AttributeError):  # no JSON, or not of this form
            raise DamagedCheckpoint(f"{self.path}: damaged {MARKER}") from None

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of `<name>.safetensors`, on the CPU."""
        return load_file(self.path / f"{name}.safetensors")

    def state(self) -> dict[str, Any]:
        """The scalars."""
        return json.loads((self.path / "state.json").read_text())


def load_weights(model: nn.Module, tensors: Mapping[str, Tensor], *, source: Path) -> None:
    """Put weights into a model; RequestError where they are those of another one."""
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        raise RequestError(
            f"{source}: these weights do not fit the configured model ({lines[-1]})"
        ) from None


class CheckpointStore:
    """The `checkpoints/` folder of a run."""

    def __init__(
        self,
        folder: Path,
        *,
        run: str,
        ancestors: Collection[str] = (),
        warn: Callable[[str], None],
    ) -> None:
        """`run` is the run's hash, kept with each checkpoint; `ancestors` those it goes on from."""
        self._folder = folder
        self._run, self._ancestors = run, ancestors
        self._warn = warn

    def save(
        self, step: int, *, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]
    ) -> Checkpoint:
        """Write `tensors[name]` to `<name>.safetensors` and `state` to state.json, atomically.

        A whole checkpoint of this step is left as it is: it is the one that training resumed from
        or has just written, and to replace it would risk it for nothing.
        """
        final = self._folder / f"step-{step:08d}"
        with suppress(DamagedCheckpoint):
            self.verify(Checkpoint(final))
            return Checkpoint(final)
        for leftover in self._folder.glob(".writing-*"):  # of a process that was killed
            shutil.rmtree(leftover)
        beside = self._folder / f".writing-step-{step:08d}"
        try:
            self._write(beside, tensors, {**state, "run": self._run})
            shutil.rmtree(final, ignore_errors=True)  # a damaged one that was skipped
            os.replace(beside, final)
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)  # a full disk needs the room
            raise
        _sync(self._folder)
        os.replace(final / f".{MARKER}", final / MARKER)
        _sync(final)
        return Checkpoint(final)

    def _write(
        self, beside: Path, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]
    ) -> None:
        """Every file of a checkpoint, synced; the marker still under another name."""
        for name, group in tensors.items():
            file = beside / f"{name}.safetensors"
            file.parent.mkdir(parents=True, exist_ok=True)
            save_file(
                {key: tensor.detach().cpu().contiguous() for key, tensor in group.items()}, file
            )
        (beside / "state.json").write_text(json.dumps(state, indent=2, sort_keys=True) + "\n")
        files = sorted(path for path in beside.rglob("*") if path.is_file())
        listed = {
            str(file.relative_to(beside)): {"bytes": file.stat().st_size, "blake2b": _hash(file)}
            for file in files
        }
        (beside / f".{MARKER}").write_text(json.dumps(listed, indent=2, sort_keys=True) + "\n")
        for file in [*files, beside / f".{MARKER}"]:
            _sync(file)

    def verify(self, checkpoint: Checkpoint) -> None:
        """Raise DamagedCheckpoint unless the checkpoint is whole and of this run."""
        checkpoint.verify()
        run = checkpoint.state().get("run")
        if run != self._run and run not in self._ancestors:
            raise DamagedCheckpoint(f"{checkpoint.path}: of another run ({run})")

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


def _hash(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _sync(path: Path) -> None:
    """Force a file's content, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
