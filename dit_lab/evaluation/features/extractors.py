"""Feature extractors, and a cache of their features.

Shapes: N images, H x W pixels, c channels, D features, K classes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from dit_lab.core.errors import RequestError
from dit_lab.core.files import atomic_path
from dit_lab.runs.folder import digest

MAX_SIDE_PIXELS = 32  # larger images are pooled, which removes fine noise
IMAGES_AT_ONCE = 256  # batch size; 10,000 large images as floats would not fit

Features = NDArray[np.float32]  # (N, D)
Probabilities = NDArray[np.float64]  # (N, K)

Found = TypeVar("Found", Features, Probabilities)


def finite(found: Found, *, by: str = "") -> Found:
    """Return features or probabilities (N, ...) unchanged; raise RequestError if any is not finite.

    Distances to non-finite features compare like large or small numbers and random forests treat
    them as missing, so metrics would look normal.
    """
    bad = ~np.isfinite(found).reshape(len(found), -1).all(axis=1)
    if bad.any():
        raise RequestError(
            f"extractor {by or '(unnamed)'}: its output is not finite in {bad.sum():,} of "
            f"{len(found):,} images, so its metrics would be meaningless; get its weights "
            "again, or leave out the metrics that use it"
        )
    return found


class Extractor(Protocol):
    """Maps images to features."""

    @property
    def name(self) -> str:
        """The extractor's part of a metric's name."""

    @property
    def fingerprint(self) -> str:
        """A hash that changes if the features of an image change."""

    def features(self, images: Tensor) -> Features:
        """Map uint8 images (N, H, W, c) to features (N, D)."""

    def probabilities(self, features: Features) -> Probabilities | None:
        """Map features (N, D) to class probabilities (N, K); None if there are no classes."""


class Pixels:
    """Pixel values in [0, 1]: D = min(H, 32) * min(W, 32) * c. Implements `Extractor`."""

    name = "pixels"
    fingerprint = f"pixels up to {MAX_SIDE_PIXELS}"

    def features(self, images: Tensor) -> Features:
        return pixel_features(images)

    def probabilities(self, features: Features) -> None:
        return None


def pixel_features(images: Tensor) -> Features:
    """Map uint8 (N, H, W, c) to (N, D) in [0, 1], D = min(H, 32) * min(W, 32) * c."""
    size = pooled_size(*images.shape[1:3])
    parts = [
        adaptive_avg_pool2d(part.permute(0, 3, 1, 2).float() / 255, size).flatten(1)
        for part in images.split(IMAGES_AT_ONCE)
    ]
    return torch.cat(parts).numpy()


def pooled_size(height: int, width: int) -> tuple[int, int]:
    """Return the size to which images of this size are pooled before comparison."""
    return min(height, MAX_SIDE_PIXELS), min(width, MAX_SIDE_PIXELS)


class FeatureCache:
    """Cache of features of real images, keyed by image content; None as the folder disables it."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def features(self, extractor: Extractor, images: Tensor) -> Features:
        """Return the features (N, D) of uint8 images (N, H, W, c)."""
        if self._folder is None or isinstance(extractor, Pixels):  # faster than reading a cache
            return finite(extractor.features(images), by=extractor.name)
        seen = digest(extractor.fingerprint.encode() + images.numpy().tobytes())
        size = "x".join(map(str, images.shape))
        file = self._folder / f"{extractor.name}-features-{size}-{seen}.npy"
        if not file.exists():
            self._folder.mkdir(parents=True, exist_ok=True)
            with atomic_path(file) as beside, open(beside, "wb") as out:
                np.save(out, finite(extractor.features(images), by=extractor.name))
        kept: Features = np.load(file)
        return finite(kept, by=extractor.name)
