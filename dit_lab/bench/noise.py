"""Random latents in place of data that are not available, with the same shape and cost."""

from __future__ import annotations

from dataclasses import replace

import torch

from dit_lab.actions.describe import described_shapes
from dit_lab.codecs.facts import IDENTITY
from dit_lab.config.objects import to_component
from dit_lab.config.schema import RunConfig
from dit_lab.core.types import Shapes

NOISE = "dit_lab.data.noise.Noise"


def with_data(config: RunConfig) -> tuple[RunConfig, Shapes, list[str]]:
    """Replace unavailable data or an unavailable autoencoder by random latents.

    Returns:
        The config, its shapes, and the assumptions in words, empty if nothing was replaced.

    Raises:
        RequestError: if the shapes cannot be determined.
    """
    shapes, assumed = described_shapes(config)
    if not assumed:
        return config, shapes, []
    noise = {
        "_target_": NOISE,
        "shape": list(shapes.latent),
        "num_classes": shapes.data.num_classes,
        "num_workers": config.dataset.num_workers if torch.cuda.is_available() else 0,
    }
    replaced = replace(
        config,
        dataset=to_component("dataset", noise),
        codec=to_component("codec", {"_target_": IDENTITY}),
    )
    return replaced, shapes, [*assumed, "random latents replace the data"]
