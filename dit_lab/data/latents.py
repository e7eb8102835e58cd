"""Cached latents: what `dit-lab encode` wrote, read through memory maps.

Shapes: N images, moments of (M, H, W), see `codecs/autoencoder.py`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dit_lab.data.image_facts import given_folder
from dit_lab.data.images import is_flipped
from dit_lab.data.latent_facts import check_size, read_manifest
from dit_lab.types import RequestError

_DTYPES = {"F16": np.float16, "F32": np.float32, "I64": np.int64}  # safetensors' names


class Shard(NamedTuple):
    """One file, of which the system reads the pages that are asked for."""

    moments: np.ndarray  # (n, K, M, H, W) float16 or float32
    labels: np.ndarray  # (n,) int64


class Latents:
    """Moments of encoded images, of which the codec draws latents. Implements `types.Dataset`.

    Where images are mirrored in training, half of them are read as their mirrors, by (seed, sample
    counter), as the dataset itself would have mirrored them. Memory does not grow with the set.

    Raises `RequestError` for a folder that is not whole.
    """

    def __init__(
        self, *, split: Literal["train", "validation"], root: str | Path, seed: int = 0
    ) -> None:
        self.root = given_folder(root)
        self.manifest = read_manifest(root)
        plan = self.manifest.plan
        self._files = [self.root / name for name in plan.shards(split)]
        self._shards: dict[int, Shard] = {}
        self._num_images = plan.images(split)
        self._seed = seed

    def __len__(self) -> int:
        return self._num_images

    def fetch(self, indices: Tensor, counters: Tensor | None) -> tuple[Tensor, Tensor]:
        """Moments (N, M, H, W) float32 and labels (N,) int64.

        `counters` (N,) decide which images are mirrored; None mirrors none.
        """
        plan = self.manifest.plan
        mirrored = np.zeros(len(indices), np.int64)
        if plan.mirrors == 2 and counters is not None:
            mirrored = is_flipped(self._seed, counters).numpy().astype(np.int64)
        moments = np.empty((len(indices), *plan.moments_shape), plan.dtype)
        labels = np.empty(len(indices), np.int64)
        places = zip(indices.tolist(), mirrored.tolist(), strict=True)
        for at, (index, mirror) in enumerate(places):
            number, row = divmod(index, plan.shard_images)
            shard = self._shard(number)
            moments[at] = shard.moments[row, mirror]
            labels[at] = shard.labels[row]
        return torch.from_numpy(moments).float(), torch.from_numpy(labels)

    def _shard(self, number: int) -> Shard:
        if number not in self._shards:
            file = self._files[number]
            check_size(file, self.manifest.shards[file.name]["bytes"])
            self._shards[number] = map_shard(file)
        return self._shards[number]


def map_shard(file: Path) -> Shard:
    """Map the tensors of a shard; `RequestError` where it holds something else.

    safetensors' own reader makes a tensor for each row, which takes ten times as long as the row.
    """
    try:
        with open(file, "rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if length > file.stat().st_size:
                raise ValueError("its header is longer than the file")
            header = json.loads(opened.read(length))
        return Shard(*(_map(file, 8 + length, header[name]) for name in Shard._fields))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RequestError(f"{file}: is no shard of latents ({error}); copy it again") from None


def _map(file: Path, start: int, entry: Any) -> np.ndarray:
    """One tensor of a safetensors file: dtype, shape, and where its bytes lie after the header."""
    first, _ = entry["data_offsets"]
    dtype, shape = _DTYPES[entry["dtype"]], tuple(entry["shape"])
    return np.memmap(file, dtype, mode="r", offset=start + first, shape=shape)
