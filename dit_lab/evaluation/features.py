"""What metrics compare: what a network sees in images, or without one the pixels themselves.

Shapes: N images, H x W pixels, c channels, D features, K classes.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

MAX_SIDE_PIXELS = 32  # larger images are averaged down: trees and neighbours see shape, not noise
IMAGES_AT_ONCE = 256  # as floats; ten thousand large images would not fit

Features = NDArray[np.float32]  # (N, D)


class Extractor(Protocol):
    """A network that looks at images for metrics; what it says of one depends on no other, up to
    rounding."""

    name: str
    fingerprint: str  # twelve hexadecimal digits: its weights, and how images are made to fit it

    def features(self, images: Tensor) -> Features:
        """uint8 (N, H, W, c), c = 1 or 3 -> (N, D)."""

    def probabilities(self, images: Tensor) -> NDArray[np.float64] | None:
        """uint8 (N, H, W, c) -> (N, K), rows sum to 1; None where the network has no classes."""


def pixel_features(images: Tensor) -> Features:
    """uint8 (N, H, W, c) -> (N, D) in [0, 1], D = min(H, 32) * min(W, 32) * c."""
    size = pooled_size(*images.shape[1:3])
    parts = [
        adaptive_avg_pool2d(part.permute(0, 3, 1, 2).float() / 255, size).flatten(1)
        for part in images.split(IMAGES_AT_ONCE)
    ]
    return torch.cat(parts).numpy()


def pooled_size(height: int, width: int) -> tuple[int, int]:
    """The size at which images of this size are compared."""
    return min(height, MAX_SIDE_PIXELS), min(width, MAX_SIDE_PIXELS)
