"""A small image autoencoder with random weights, in diffusers' format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch


def save_autoencoder(folder: Path, widths: Sequence[int], *, seed: int = 0, **config: Any) -> Path:
    """Save one with a block for each of `widths`, of which all but the last halve the sides; the
    folder. The same weights every time."""
    from diffusers import AutoencoderKL  # seconds

    torch.manual_seed(seed)
    network = AutoencoderKL(
        block_out_channels=tuple(widths),
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        norm_num_groups=4,
        **config,
    )
    network.save_pretrained(folder)
    return folder
