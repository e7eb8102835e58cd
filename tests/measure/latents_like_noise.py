"""A dataset of random latents, for speed and memory at sizes without data here."""

from __future__ import annotations

import torch
from torch import Tensor

from dit_lab.core.types import DataFacts

IMAGES, CLASSES = 10_000, 1000


class Noise:
    """A dataset. Implements `types.Dataset`."""

    def __init__(self, *, image_size: int) -> None:
        self._latents = torch.randn(64, 4, image_size, image_size)

    def __len__(self) -> int:
        return IMAGES

    def fetch(self, indices: Tensor, counters: Tensor | None) -> tuple[Tensor, Tensor]:
        return self._latents[indices % len(self._latents)], indices % CLASSES

    @staticmethod
    def facts(*, image_size: int) -> DataFacts:
        return DataFacts(
            channels=4,
            height=image_size,
            width=image_size,
            num_classes=CLASSES,
            class_names=tuple(str(label) for label in range(CLASSES)),
            train_images=IMAGES,
            validation_images=IMAGES,
            fingerprint=f"noise {image_size}",
        )
