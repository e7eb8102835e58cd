"""A small image autoencoder with random weights, in diffusers' format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch


def save_autoencoder(folder: Path, widths: Sequence[int], *, seed: int = 0, **config: Any) -> Path:
    """Save an autoencoder with one block per width and return its folder.

    All blocks but the last halve the sides. The weights are the same every time.
    """
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
