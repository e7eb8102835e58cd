"""Scikit-learn's handwritten digits: 1,797 images of 8x8 pixels, included in the library.

Shapes: N images.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from dit_lab.data.digits_facts import DIGITS_SPLIT, digits_file

SPLIT = Path(__file__).with_name("digits_split.txt")
"""Rows of the table: the training split, then the validation split, in order.

They are the result of scikit-learn's stratified `train_test_split` with DIGITS_SPLIT.
"""


class Digits:
    """The digits of one split, in memory, without augmentation. Implements `types.Dataset`.

    `train` holds 1,437 images and `validation` 360, stratified by class; the split is the same for
    every seed. Pixel values 0..16 are scaled to [-1, 1].
    """

    def __init__(self, *, split: Literal["train", "validation"]) -> None:
        table = np.loadtxt(digits_file(), delimiter=",", dtype=np.float32)  # 64 pixels and a label
        rows = np.array(SPLIT.read_text().split(), dtype=np.int64)
        held_out = DIGITS_SPLIT["test_size"]
        chosen = rows[:-held_out] if split == "train" else rows[-held_out:]
        values = torch.from_numpy(table[chosen])
        self._images = values[:, :64].reshape(-1, 1, 8, 8) / 8 - 1  # (N, 1, 8, 8), from 0..16
        self._labels = values[:, 64].to(torch.int64)  # (N,)

    def __len__(self) -> int:
        return len(self._labels)

    def fetch(self, indices: Tensor, counters: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return images (N, 1, 8, 8) float32 in [-1, 1] and labels (N,) int64, not augmented."""
        return self._images[indices], self._labels[indices]
