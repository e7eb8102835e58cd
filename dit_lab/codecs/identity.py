"""The model works on pixels.

Shapes: N images of (C, H, W) pixels.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor


class Identity:
    """Changes nothing. Implements `types.Codec`."""

    fingerprint = "identity"
    draws = False

    def to(self, device: torch.device | str) -> Self:
        """Holds nothing, so it is everywhere."""
        return self

    def latent_shape(self, channels: int, height: int, width: int) -> tuple[int, int, int]:
        """The shape of the pixels."""
        return channels, height, width

    def moments(self, images: Tensor) -> Tensor:
        """The images themselves (N, C, H, W)."""
        return images

    def latents(self, moments: Tensor, noise: Tensor | None) -> Tensor:
        """The images themselves (N, C, H, W)."""
        return moments

    def encode(self, images: Tensor, noise: Tensor | None) -> Tensor:
        """The images themselves (N, C, H, W)."""
        return images

    def decode(self, latents: Tensor) -> Tensor:
        """The latents themselves (N, C, H, W)."""
        return latents
