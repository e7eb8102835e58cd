"""A codec whose first half was done beforehand, by `dit-lab encode`.

Shapes: see `autoencoder.py`.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from dit_lab.core.types import Codec


class Cached:
    """Takes moments where its codec takes images. Implements `types.Codec`."""

    def __init__(self, codec: Codec) -> None:
        self.fingerprint, self.draws = codec.fingerprint, codec.draws
        self.latent_shape, self.latents = codec.latent_shape, codec.latents
        self.encode, self.decode = codec.latents, codec.decode

    def to(self, device: torch.device | str) -> Self:
        """Its codec is where it is."""
        return self

    def moments(self, images: Tensor) -> Tensor:
        """The moments (N, M, H, W) that were given."""
        return images
