"""Checkpoints on disk and their verification; `checkpoint_store.py` writes them.

    checkpoints/step-00001000/
        model.safetensors  ema-0.9999.safetensors  optimizer/state.safetensors  state.json  COMPLETE
        measured.json

With sharded models, a folder of shards replaces each tensor file (`tensor_files.py`). `COMPLETE`
lists size and hash of every file except `measured.json`, which is added after the evaluators of
that step have run. Tensors are in safetensors and scalars in JSON; there is no pickle.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from torch import Tensor, nn

from dit_lab.core.errors import RequestError
from dit_lab.core.files import parse_json, read_within
from dit_lab.core.typed import Count, Duration, PathBelow, read_as
from dit_lab.runs.folder import step_of
from dit_lab.runs.records import WeightsName
from dit_lab.training.optimizers.state import Numbers
from dit_lab.training.tensor_files import TensorGroup

MARKER, MEASURED = "COMPLETE", "measured.json"


class DamagedCheckpoint(Exception):  # noqa: N818 - says what it found
    """A checkpoint folder is incomplete, belongs to another run, or differs from its marker."""


class Listed(TypedDict):
    """Entry of a file in the marker."""

    bytes: Count
    blake2b: str


class Averaged(TypedDict):
    """Scalars of an average in state.json."""

    num_updates: Duration
    std: NotRequired[float]


class Position(TypedDict):
    """Position of a training: the fields of `state.TrainState`; only `step` after an import."""

    step: Count
    evaluated_step: NotRequired[Count]
    skipped_steps: NotRequired[Count]
    skipped_in_a_row: NotRequired[Count]
    longest_skipped: NotRequired[Count]
    results: NotRequired[dict[str, float]]


class Measured(TypedDict):
    """measured.json: the latest evaluation results, the last ones from this checkpoint's step."""

    evaluated_step: Count
    results: dict[str, float]


class Sums(TypedDict):
    """Sums of a `state.Window`."""

    steps: float
    sums: dict[str, float]


class Scalars(TypedDict):
    """state.json of a checkpoint or of a snapshot of averages."""

    run: str
    train: NotRequired[Position]
    window: NotRequired[Sums]
    emas: NotRequired[dict[WeightsName, Averaged]]
    averages: NotRequired[dict[WeightsName, Averaged]]
    optimizer: NotRequired[Numbers]
    num_threads: NotRequired[Count]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint folder; `verify` compares its files with the marker."""

    path: Path

    @property
    def step(self) -> int:
        return step_of(self.path)

    @property
    def is_complete(self) -> bool:
        """Whether writing it was finished; files may have been damaged since."""
        return (self.path / MARKER).is_file() and (self.path / "state.json").is_file()

    def verify(self) -> None:
        """Raise DamagedCheckpoint, with the name of the file, unless all files are as written."""
        for file, (size, digest) in self._listed().items():
            if not file.is_file():
                raise DamagedCheckpoint(f"{file}: missing")
            if file.stat().st_size != size:
                raise DamagedCheckpoint(f"{file}: {file.stat().st_size} bytes, not {size}")
            if hash_of(file) != digest:
                raise DamagedCheckpoint(f"{file}: content differs from what was written")

    def _listed(self) -> dict[Path, tuple[int, str]]:
        """Read the marker: file -> (bytes, hash)."""
        try:
            found = parse_json(read_within(self.path / MARKER))
            listed = read_as(dict[PathBelow, Listed], found, where=MARKER)
            return {self.path / name: (of["bytes"], of["blake2b"]) for name, of in listed.items()}
        except FileNotFoundError:
            raise DamagedCheckpoint(f"{self.path}: incomplete (no {MARKER})") from None
        except (OSError, ValueError):  # no JSON, or not of this form
            raise DamagedCheckpoint(f"{self.path}: damaged {MARKER}") from None

    def holds(self, name: str) -> bool:
        """Return whether the checkpoint has a tensor group of this name."""
        return (self.path / f"{name}.safetensors").is_file() or (self.path / name).is_dir()

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Read the whole tensors of a group to the CPU."""
        group = self.group(name)
        return {key: group.read(key) for key in group.names()}

    def group(self, name: str) -> TensorGroup:
        """Open a tensor group ("model", "ema-0.9999", "optimizer/state"); nothing is read yet."""
        return TensorGroup(self.path, name)

    def state(self) -> dict[str, Any]:
        """Read the scalars of state.json. Raises DamagedCheckpoint."""
        return self._scalars("state.json", Scalars)

    def position(self) -> dict[str, Any]:
        """Read position and evaluation results of the training. Raises DamagedCheckpoint."""
        saved: dict[str, Any] = self.state()["train"]
        with suppress(DamagedCheckpoint):  # without the file, evaluations run again
            saved |= self._scalars(MEASURED, Measured)
        return saved

    def is_measured(self) -> bool:
        """Return whether the evaluators that were due at its step have run."""
        position = self.position()
        return bool(position.get("evaluated_step") == position["step"])

    def _scalars(self, name: str, kind: type[Any]) -> dict[str, Any]:
        file = self.path / name
        try:
            return dict(read_as(kind, parse_json(read_within(file)), where=file))
        except RequestError as damage:
            raise DamagedCheckpoint(str(damage)) from None
        except (OSError, ValueError) as error:
            raise DamagedCheckpoint(f"{file}: damaged ({error})") from None


def load_weights(model: nn.Module, tensors: Mapping[str, Tensor], *, source: Path) -> None:
    """Load tensors into a model; raise RequestError if they belong to another architecture."""
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        raise RequestError(
            f"{source}: these weights do not fit the configured model ({lines[-1]})"
        ) from None


def hash_of(path: Path) -> str:
    """Return the BLAKE2b hash of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
