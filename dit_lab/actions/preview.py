"""The slow parts of `dit-lab describe`: a picture of training images, and parameter counts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from dit_lab.build.parts import build_images, build_model, parts_of_model
from dit_lab.config.schema import RunConfig
from dit_lab.core import trust
from dit_lab.core.errors import RequestError
from dit_lab.core.options import target_of
from dit_lab.core.types import DataFacts, Shapes
from dit_lab.data.order import SampleOrder
from dit_lab.sampling.images import grid_columns, to_uint8, write_grid

IMAGES = 64


def write_preview(config: RunConfig, facts: DataFacts, out: Path) -> int:
    """Write a grid of the first training images, augmented as in training; return their number."""
    dataset = build_images(config, facts, "train")
    counters = torch.arange(min(IMAGES, len(dataset)))
    indices = SampleOrder(config.seed, len(dataset)).indices(counters)
    images, _ = dataset.fetch(indices, counters)
    write_grid(out, to_uint8(images, facts.levels), columns=grid_columns(len(counters), 0))
    return len(counters)


@dataclass(frozen=True, slots=True)
class Parameters:
    """Numbers of a model's parameters."""

    total: int
    trainable: int
    of_modules: dict[str, int]  # of the direct children; "" for parameters of the model itself


def count_parameters(config: RunConfig, shapes: Shapes) -> Parameters:
    """Build the configured model and count its parameters; shared ones count once.

    Raises:
        RequestError: the model cannot be built.
    """
    parts = parts_of_model(config, shapes, torch.device("cpu"))
    try:
        model = build_model(parts)
    except RequestError:
        raise
    except Exception as error:  # user code may raise anything
        target = target_of(config.model)
        raise RequestError(
            f"model._target_={target}: cannot be made ({trust.reason(error)})"
        ) from error
    return Parameters(
        total=sum(weight.numel() for weight in model.parameters()),
        trainable=sum(weight.numel() for weight in model.parameters() if weight.requires_grad),
        of_modules=_of_modules(model),
    )


def _of_modules(model: nn.Module) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, weight in model.named_parameters():
        child = name.partition(".")[0] if "." in name else ""
        found[child] = found.get(child, 0) + weight.numel()
    return found
