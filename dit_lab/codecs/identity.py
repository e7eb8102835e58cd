"""Codec for models that work on pixels.

Shapes: N images of (C, H, W) pixels.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor


class Identity:
    """Identity: latents are the pixels. Implements `types.Codec`."""

    fingerprint = "identity"
    draws = False

    def to(self, device: torch.device | str) -> Self:
        """Do nothing: there are no tensors to move."""
        return self

    def latent_shape(self, channels: int, height: int, width: int) -> tuple[int, int, int]:
        """Return the shape of the pixels."""
        return channels, height, width

    def moments(self, images: Tensor) -> Tensor:
        """Return the images (N, C, H, W)."""
        return images

    def latents(self, moments: Tensor, noise: Tensor | None) -> Tensor:
        """Return the moments, which are the images (N, C, H, W)."""
        return moments

    def encode(self, images: Tensor, noise: Tensor | None) -> Tensor:
        """Return the images (N, C, H, W)."""
        return images

    def decode(self, latents: Tensor) -> Tensor:
        """Return the latents (N, C, H, W)."""
        return latents
