"""Codec for latents that `dit-lab encode` has cached.

Shapes: see `autoencoder.py`.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from dit_lab.core.types import Codec


class Cached:
    """Codec that takes cached moments instead of images. Implements `types.Codec`.

    Its latents and its decoder are those of the codec that encoded them.
    """

    def __init__(self, codec: Codec) -> None:
        self.fingerprint, self.draws = codec.fingerprint, codec.draws
        self.latent_shape, self.latents = codec.latent_shape, codec.latents
        self.encode, self.decode = codec.latents, codec.decode

    def to(self, device: torch.device | str) -> Self:
        """Do nothing: the wrapped codec is on its device already."""
        return self

    def moments(self, images: Tensor) -> Tensor:
        """Return the given moments (N, M, H, W)."""
        return images
