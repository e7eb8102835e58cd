"""A picture of what training will see first."""

from __future__ import annotations

from pathlib import Path

import torch

from dit_lab.build.parts import build_images
from dit_lab.config.schema import RunConfig
from dit_lab.core.types import DataFacts
from dit_lab.data.order import SampleOrder
from dit_lab.sampling.images import grid_columns, to_uint8, write_grid

IMAGES = 64


def write_preview(config: RunConfig, facts: DataFacts, out: Path) -> int:
    """Write the first images of a training, cropped and mirrored as it will see them, as a grid;
    returns how many there are."""
    dataset = build_images(config, "train")
    counters = torch.arange(min(IMAGES, len(dataset)))
    indices = SampleOrder(config.seed, len(dataset)).indices(counters)
    images, _ = dataset.fetch(indices, counters)
    write_grid(out, to_uint8(images, facts.levels), columns=grid_columns(len(counters), 0))
    return len(counters)
