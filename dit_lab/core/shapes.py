"""What a model is built and checked against. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass

from dit_lab.core.types import DataFacts


@dataclass(frozen=True, slots=True)
class Shapes:
    """What the data and the codec tell the model."""

    data: DataFacts
    latent: tuple[int, int, int]  # channels, height, width
