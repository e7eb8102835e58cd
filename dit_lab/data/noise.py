"""Random latents in place of a dataset, for timings without the data."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

IMAGES, DRAWN = 10_000, 64


class Noise:
    """A dataset of random latents. Implements `types.Dataset`.

    It has no facts; only benchmarks use it.
    """

    def __init__(self, *, shape: Sequence[int], num_classes: int) -> None:
        self._latents = torch.randn(DRAWN, *shape)
        self._labels = max(1, num_classes)

    def __len__(self) -> int:
        return IMAGES

    def fetch(self, indices: Tensor, counters: Tensor | None) -> tuple[Tensor, Tensor]:
        return self._latents[indices % DRAWN], indices % self._labels
