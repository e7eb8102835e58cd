"""Tensors on disk, whole in one file or sharded by rows, from which any rows can be read.

    model.safetensors                                       whole
    model/shard-00001-model-00001-of-00001.safetensors ...  by rows, one file of each process

The sharded layout is that of torch's distributed checkpoints (`HuggingFaceStorageWriter` with
`save_distributed=True`), whose reader can load it. Neither contains a pickle.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, TypeGuard

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dit_lab.core.errors import RequestError
from dit_lab.core.files import parse_json, to_json
from dit_lab.core.tensor_file import save_tensors
from dit_lab.core.typed import Count, read_as

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

SHARDING = "DCP_SHARDING_INFO"  # the only metadata key: the order of several would vary


@dataclass(frozen=True, slots=True)
class Rows:
    """Consecutive rows of a tensor that one process holds, often all of them."""

    tensor: Tensor  # (n, ...), or () for a scalar
    first: int  # index of the first row in the whole tensor
    shape: tuple[int, ...]  # of the whole tensor
    copy: bool = False  # another process holds the same rows

    @property
    def are_all(self) -> bool:
        return tuple(self.tensor.shape) == self.shape

    @property
    def whole_bytes(self) -> int:
        """Size of the whole tensor."""
        return math.prod(self.shape) * self.tensor.element_size()

    def on_the_host(self, dtype: torch.dtype | None = None) -> Rows:
        """Return a copy in host memory, converted to `dtype` if given."""
        copied = self.tensor.detach().to("cpu", dtype, copy=True)
        return Rows(copied, self.first, self.shape, self.copy)


def is_sharded(tensor: Tensor | None) -> TypeGuard[DTensor]:
    """Return whether a tensor is sharded, without importing DTensor (about 1 s)."""
    return hasattr(tensor, "placements")


def rows_of(tensor: Tensor | Rows) -> Rows:
    """Return the rows of a tensor that this process holds: all of them, or those of its shard."""
    if isinstance(tensor, Rows):
        return tensor
    if not is_sharded(tensor):
        return Rows(tensor, 0, tuple(tensor.shape))
    mesh, coordinates = tensor.device_mesh, tensor.device_mesh.get_coordinate()
    assert coordinates is not None
    first, copy = 0, False
    for dimension, placement in enumerate(tensor.placements):
        if placement.is_shard(0):
            each = -(-tensor.shape[0] // mesh.size(dimension))  # as torch.chunk divides
            first = min(coordinates[dimension] * each, tensor.shape[0])
        else:
            assert placement.is_replicate(), placement
            copy = copy or coordinates[dimension] > 0
    return Rows(tensor.to_local(), first, tuple(tensor.shape), copy)


def write_tensors(
    folder: Path, name: str, tensors: Mapping[str, Rows], *, index: int, size: int
) -> list[Path]:
    """Write the rows of a group that process `index` of `size` holds; return the files written.

    Raises OSError if the disk rejects them.
    """
    if size == 1:
        whole = {key: rows.tensor for key, rows in tensors.items()}
        return [save_tensors(whole, folder / f"{name}.safetensors")]
    # Tensors that every process holds whole, and replicas of a shard, are written once.
    own = {
        key: rows
        for key, rows in tensors.items()
        if not rows.copy and (index == 0 if rows.are_all else len(rows.tensor))
    }
    if not own:
        return []
    offsets = {
        key: {"saved_offsets": [rows.first, *[0] * (len(rows.shape) - 1)][: len(rows.shape)]}
        for key, rows in own.items()
    }
    file = folder / name / f"shard-{index + 1:05d}-model-00001-of-00001.safetensors"
    rows = {key: rows.tensor for key, rows in own.items()}
    return [save_tensors(rows, file, {SHARDING: to_json(dict(sorted(offsets.items())))})]


class TensorGroup:
    """A tensor group on disk, by name; tensors are read on request."""

    def __init__(self, folder: Path, name: str) -> None:
        whole = folder / f"{name}.safetensors"
        files = [whole] if whole.is_file() else sorted((folder / name).glob("shard-*.safetensors"))
        if not files:
            raise FileNotFoundError(f"{whole}: missing")
        self._pieces: dict[str, list[_Piece]] = {}
        for file in files:
            for key, piece in _pieces_of(file):
                self._pieces.setdefault(key, []).append(piece)

    def names(self) -> Iterable[str]:
        return self._pieces

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of the whole tensor."""
        pieces = self._pieces[name]
        shape = pieces[0].shape
        return (max(piece.end for piece in pieces), *shape[1:]) if shape else shape

    def read(self, name: str, first: int = 0, count: int | None = None) -> Tensor:
        """Read `count` rows from `first` on (all if None) to the CPU."""
        shape = self.shape(name)
        if not shape:
            return self._pieces[name][0].read_number()
        end = shape[0] if count is None else first + count
        pieces = sorted(self._pieces[name], key=lambda piece: piece.first)
        read = [piece.read(first, end) for piece in pieces]
        touched = [rows for rows in read if len(rows)] or read[:1]
        return touched[0] if len(touched) == 1 else torch.cat(touched)

    def read_like(self, name: str, like: Tensor | None) -> Tensor:
        """Read the rows that this process holds of a tensor that is sharded like `like`."""
        if not is_sharded(like) or self.shape(name) != tuple(like.shape):
            return self.read(name)
        from torch.distributed.tensor import DTensor

        held = rows_of(like)
        return DTensor.from_local(
            self.read(name, held.first, len(held.tensor)).to(held.tensor.device),
            like.device_mesh,
            like.placements,
            run_check=False,
            shape=like.shape,
            stride=like.stride(),
        )


@dataclass(frozen=True, slots=True)
class _Piece:
    """Rows of one tensor in one file."""

    file: Any  # an open safetensors file
    name: str
    first: int
    shape: tuple[int, ...]

    @property
    def end(self) -> int:
        return self.first + self.shape[0]

    def read(self, first: int, end: int) -> Tensor:
        """Read those of the rows [first, end) of the whole tensor that this file has."""
        rows = self.shape[0]
        start, stop = (min(max(row - self.first, 0), rows) for row in (first, end))
        return self.file.get_slice(self.name)[start:stop]

    def read_number(self) -> Tensor:
        return self.file.get_tensor(self.name)


class _Offsets(TypedDict):
    saved_offsets: list[Count]  # empty for a scalar


def _pieces_of(file: Path) -> Iterable[tuple[str, _Piece]]:
    try:
        opened = safe_open(file, framework="pt")
        said = parse_json((opened.metadata() or {}).get(SHARDING, "{}").encode())
    except (OSError, ValueError, SafetensorError):
        raise RequestError(f"{file}: no safetensors file, or damaged; copy it again") from None
    offsets = read_as(dict[str, _Offsets], said, where=file, instead="copy it again")
    for name in opened.keys():  # noqa: SIM118 - a file, not a mapping
        first = (offsets[name]["saved_offsets"] or [0])[0] if name in offsets else 0
        yield name, _Piece(opened, name, first, tuple(opened.get_slice(name).get_shape()))
