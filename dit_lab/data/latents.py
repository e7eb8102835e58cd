"""Dataset of cached latents, written by `dit-lab encode`; reads only the requested images.

Shapes: N images, moments of (M, H, W), see `codecs/autoencoder.py`.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from dit_lab.core.errors import RequestError
from dit_lab.core.files import parse_json
from dit_lab.data.image_facts import given_folder
from dit_lab.data.images import is_flipped
from dit_lab.data.latent_facts import Plan, check_size, read_manifest

OPEN_SHARDS = 512  # per process; systems commonly allow 1,024 open files

HEADER_BYTES = 4096  # maximum; a shard has two tensors
_DTYPES = {"F16": "float16", "F32": "float32", "I64": "int64"}  # safetensors' names to numpy's


class Latents:
    """Moments of encoded images, from which the codec samples latents. Implements `types.Dataset`.

    If the source dataset flips images, the mirror images of half of them are read, chosen by (seed,
    sample counter) exactly as the source dataset chooses. Memory use does not grow with the
    dataset.

    Raises:
        RequestError: if the folder is incomplete.
    """

    def __init__(
        self, *, split: Literal["train", "validation"], root: str | Path, seed: int = 0
    ) -> None:
        self.root = given_folder(root)
        self.manifest = read_manifest(root)
        plan = self.manifest.plan
        self._files = [self.root / name for name in plan.shards(split)]
        self._shards: OrderedDict[int, Shard] = OrderedDict()
        self._num_images = plan.images(split)
        self._seed = seed

    def __len__(self) -> int:
        return self._num_images

    def fetch(self, indices: Tensor, counters: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return moments (N, M, H, W), float16 or float32 as stored, and labels (N,) int64.

        The sample counters (N,) determine which images are flipped; None flips none.
        """
        plan = self.manifest.plan
        mirrored = np.zeros(len(indices), np.int64)
        if plan.mirrors == 2 and counters is not None:
            mirrored = is_flipped(self._seed, counters).numpy().astype(np.int64)
        moments = np.empty((len(indices), *plan.moments_shape), plan.dtype)
        labels = np.empty(len(indices), np.int64)
        for at, index in enumerate(indices.tolist()):
            number, row = divmod(index, plan.shard_images)
            shard = self._shard(number)
            shard.read("moments", plan.mirrors * row + mirrored[at], moments[at])
            shard.read("labels", row, labels[at : at + 1])
        return torch.from_numpy(moments), torch.from_numpy(labels)

    def _shard(self, number: int) -> Shard:
        if number in self._shards:
            self._shards.move_to_end(number)
            return self._shards[number]
        file = self._files[number]
        check_size(file, self.manifest.shards[file.name]["bytes"])
        while len(self._shards) >= OPEN_SHARDS:
            self._shards.popitem(last=False)
        shard = self._shards[number] = Shard(file, self.manifest.plan)
        return shard

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without open files; every process opens its own."""
        return {**self.__dict__, "_shards": OrderedDict()}


class Shard:
    """One safetensors file, read row by row.

    A memory map would read megabytes around every uncached row, and the safetensors reader, which
    makes a tensor of each row, takes ten times as long.
    """

    def __init__(self, file: Path, plan: Plan) -> None:
        self._path = file
        try:
            self._file = open(file, "rb", buffering=0)  # noqa: SIM115 - closed with the shard
            header_bytes = int.from_bytes(self._file.read(8), "little")
            if header_bytes > min(file.stat().st_size, HEADER_BYTES):
                raise ValueError("its header is too long")
            header = parse_json(self._file.read(header_bytes))
            moments = _start(header["moments"], plan.dtype, (plan.mirrors, *plan.moments_shape))
            labels = _start(header["labels"], "int64", ())
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RequestError(
                f"{file}: is not a shard of latents ({error}); copy it again"
            ) from None
        first = 8 + header_bytes
        self._starts = {"moments": first + moments, "labels": first + labels}
        if hasattr(os, "posix_fadvise"):  # not on macOS
            os.posix_fadvise(self._file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)

    def read(self, name: str, row: int, out: np.ndarray) -> None:
        """Fill `out` with row `row` of a tensor; `out` has the size of a row."""
        start = self._starts[name] + row * out.nbytes
        if os.preadv(self._file.fileno(), [out.data], start) != out.nbytes:
            raise RequestError(f"{self._path}: ends too early; copy it again")


def _start(entry: Any, dtype: str, row_shape: tuple[int, ...]) -> int:
    """Return the offset after the header of a tensor with such rows; ValueError if invalid."""
    if _DTYPES[entry["dtype"]] != dtype or tuple(entry["shape"][1:]) != row_shape:
        raise ValueError(f"rows of {entry['dtype']} {entry['shape'][1:]}")
    start = entry["data_offsets"][0]
    if type(start) is not int or start < 0:
        raise ValueError(f"rows from {start!r:.40} on")
    return start
