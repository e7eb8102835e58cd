"""Pairs of noise and data that a trained model joined: what `dit-lab reflow` trains on.

Data is kept as the model saw it (latents, where there is a codec). Noise is not kept: noise i is a
function of the seed and of its purpose, see `core/rng.py`.

Shapes: N pairs, C channels, H x W pixels or latent cells.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dit_lab.core import rng
from dit_lab.core.errors import RequestError
from dit_lab.data.pair_facts import SHARD_PAIRS, PairFacts, read_pair_facts, shard


def _read(file: Path, facts: PairFacts) -> dict[str, Tensor]:
    """The tensors of a shard. Raises RequestError where they are not of such pairs."""
    try:
        found = load_file(file)
        data, labels = found["data"], found["labels"]
    except (OSError, SafetensorError, KeyError) as error:
        reason = f"lacks {error}" if isinstance(error, KeyError) else f"{error}"
        raise RequestError(f"{file}: is no shard of pairs ({reason}); draw them again") from None
    if list(data.shape) != [len(labels), *facts.latent_shape] or labels.dtype != torch.int64:
        raise RequestError(
            f"{file}: holds data of shape {tuple(data.shape)} and labels of {tuple(labels.shape)}, "
            "not the pairs that pairs.json says; draw them again"
        )
    return found


class Pairs:
    """The "train" or the "validation" pairs of a folder, in memory. Implements
    `types.PairedDataset`."""

    def __init__(self, folder: Path, *, split: str) -> None:
        self._facts = read_pair_facts(folder)
        shards = -(-self._facts.num_pairs // SHARD_PAIRS)
        files = [_read(shard(folder, number), self._facts) for number in range(shards)]
        first, last = {
            "train": (0, self._facts.train_pairs),
            "validation": (self._facts.train_pairs, self._facts.num_pairs),
        }[split]
        self._first = first
        self._data = torch.cat([file["data"] for file in files])[first:last]
        self._labels = torch.cat([file["labels"] for file in files])[first:last]

    def __len__(self) -> int:
        return len(self._labels)

    def fetch(self, indices: Tensor, counters: Tensor | None) -> tuple[Tensor, Tensor]:
        """Data (N, C, H, W) float32 and labels (N,) int64; nothing is augmented."""
        return self._data[indices], self._labels[indices]

    def noise(self, indices: Tensor) -> Tensor:
        """The noise (N, C, H, W) float32 that was carried to the data at `indices`."""
        shape = (self._data.shape[1], self._data.shape[2], self._data.shape[3])
        purpose = self._facts.noise or rng.SAMPLE_NOISE
        return rng.normal(self._facts.seed, purpose, self._first + indices, shape)
