"""Random weights for every tensor of a small DiT; initial zeros would hide wrong wiring."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dit_lab.models.dit import DiT


def random_weights(**options: Any) -> dict[str, Tensor]:
    """Of `DiT(**options)`, the same numbers every time; positions as they are."""
    model = DiT(**options, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    return {
        name: tensor
        if name == "pos_embed"
        else tensor + 0.1 * torch.randn(tensor.shape, generator=generator)
        for name, tensor in model.state_dict().items()
    }
