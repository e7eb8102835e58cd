"""Noise in the place of data that are not on this machine: as fast, and of the same shape."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from dit_lab.actions.describe import described_shapes
from dit_lab.codecs.facts import IDENTITY
from dit_lab.config.components import COMPONENTS
from dit_lab.config.objects import to_component
from dit_lab.config.schema import RunConfig
from dit_lab.config.signature import component_schema
from dit_lab.core.types import Shapes

IMAGES, DRAWN = 10_000, 64
NOISE = f"{__name__}.Noise"


class Noise:
    """A dataset of latents. Implements `types.Dataset`."""

    def __init__(self, *, shape: tuple[int, int, int], num_classes: int) -> None:
        self._latents = torch.randn(DRAWN, *shape)
        self._labels = max(1, num_classes)

    def __len__(self) -> int:
        return IMAGES

    def fetch(self, indices: Tensor, counters: Tensor | None) -> tuple[Tensor, Tensor]:
        return self._latents[indices % DRAWN], indices % self._labels


def with_data(config: RunConfig) -> tuple[RunConfig, Shapes, list[str]]:
    """The configuration with latents of noise where its data or its autoencoder are not here, the
    shapes, and what was assumed, in words. Raises RequestError."""
    shapes, assumed = described_shapes(config)
    if not assumed:
        return config, shapes, []
    COMPONENTS["dataset"].setdefault(NOISE, component_schema("dataset", NOISE, Noise))
    noise = {
        "_target_": NOISE,
        "shape": shapes.latent,
        "num_classes": shapes.data.num_classes,
        "num_workers": config.dataset.num_workers if torch.cuda.is_available() else 0,
    }
    replaced = replace(
        config,
        dataset=to_component("dataset", noise),
        codec=to_component("codec", {"_target_": IDENTITY}),
    )
    return replaced, shapes, [*assumed, "noise is trained on"]
