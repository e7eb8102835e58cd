"""What the metrics without a network compare: the pixels themselves.

Shapes: N images, H x W pixels, c channels, D features.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

MAX_SIDE_PIXELS = 32  # larger images are averaged down: trees and neighbours see shape, not noise
IMAGES_AT_ONCE = 256  # as floats; ten thousand large images would not fit

Features = NDArray[np.float32]  # (N, D)


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
