"""Wrapper that removes a dataset's labels, for an unconditional model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dit_lab.core.types import Dataset


class Unlabelled:
    """A dataset with all labels set to 0; all other attributes are those of the dataset."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def fetch(self, indices: Tensor, counters: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return images or moments of N indices, and labels (N,) of 0."""
        images, labels = self._dataset.fetch(indices, counters)
        return images, torch.zeros_like(labels)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_dataset":  # looked up while copying, before __init__
            raise AttributeError(name)
        return getattr(self._dataset, name)
