"""Any dataset without its labels, for a model without classes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dit_lab.core.types import Dataset


class Unlabelled:
    """The images of a dataset, all of the label 0; all else is the dataset's own."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def fetch(self, indices: Tensor, counters: Tensor | None) -> tuple[Tensor, Tensor]:
        """Images or moments of N indices, and labels (N,) of 0."""
        images, labels = self._dataset.fetch(indices, counters)
        return images, torch.zeros_like(labels)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_dataset":  # while a copy is being made
            raise AttributeError(name)
        return getattr(self._dataset, name)
