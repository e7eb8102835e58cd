"""Scikit-learn's handwritten digits: 1,797 images of 8x8 that come with the library, no download.

Shapes: N images.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from dit_lab.data.facts import DIGITS_SPLIT


class Digits:
    """All digits of one split, in memory, without augmentation. Implements `types.Dataset`.

    `train` holds 1,437 images, `validation` 360, with equal shares of the ten classes; the split
    is the same for every seed. Pixels 0..16 become [-1, 1].
    """

    def __init__(self, *, split: Literal["train", "validation"]) -> None:
        # scikit-learn takes a second to import and only this class needs it
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        digits = load_digits()
        train, validation = train_test_split(
            range(len(digits.target)), stratify=digits.target, **DIGITS_SPLIT
        )
        chosen = {"train": train, "validation": validation}[split]
        pixels = torch.from_numpy(digits.images[chosen]).to(torch.float32)  # (N, 8, 8), 0..16
        self._images = (pixels / 8 - 1).unsqueeze(1)  # (N, 1, 8, 8)
        self._labels = torch.from_numpy(digits.target[chosen]).to(torch.int64)  # (N,)

    def __len__(self) -> int:
        return len(self._labels)

    def fetch(self, indices: Tensor, counters: Tensor | None) -> tuple[Tensor, Tensor]:
        """Images (N, 1, 8, 8) float32 in [-1, 1] and labels (N,) int64; nothing is augmented."""
        return self._images[indices], self._labels[indices]
