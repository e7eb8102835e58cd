"""What metrics compare: features that an extractor sees in images.

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
from dit_lab.core.files import written_at
from dit_lab.runs.folder import digest

MAX_SIDE_PIXELS = 32  # larger images are averaged down: trees and neighbours see shape, not noise
IMAGES_AT_ONCE = 256  # as floats; ten thousand large images would not fit

Features = NDArray[np.float32]  # (N, D)
Probabilities = NDArray[np.float64]  # (N, K)

Found = TypeVar("Found", Features, Probabilities)


def finite(found: Found, *, by: str = "") -> Found:
    """Features or probabilities of images (N, ...), as they are. Raises RequestError where some are
    infinite or no numbers: distances to them compare as if they were large or small, and trees
    take them for missing, so that metrics look like any others."""
    bad = ~np.isfinite(found).reshape(len(found), -1).all(axis=1)
    if bad.any():
        raise RequestError(
            f"extractor {by or '(unnamed)'}: what it sees is not finite in {bad.sum():,} of "
            f"{len(found):,} images, so that no metric of it means anything; get its weights "
            "again, or leave out the metrics that use it"
        )
    return found


class Extractor(Protocol):
    """Turns images into numbers that can be compared."""

    @property
    def name(self) -> str:
        """The part of a metric's name that says what was compared."""

    @property
    def fingerprint(self) -> str:
        """Changes when the features of an image do."""

    def features(self, images: Tensor) -> Features:
        """uint8 (N, H, W, c) -> (N, D)."""

    def probabilities(self, features: Features) -> Probabilities | None:
        """Features (N, D) -> probabilities of classes (N, K); None where it knows none."""


class Pixels:
    """The pixels themselves, in [0, 1]: D = min(H, 32) * min(W, 32) * c. Implements `Extractor`."""

    name = "pixels"
    fingerprint = f"pixels up to {MAX_SIDE_PIXELS}"

    def features(self, images: Tensor) -> Features:
        return pixel_features(images)

    def probabilities(self, features: Features) -> None:
        return None


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


class FeatureCache:
    """Keeps what extractors saw in real images, by the content of the images: the second evaluation
    with them starts at once. Without a folder nothing is kept."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def features(self, extractor: Extractor, images: Tensor) -> Features:
        """uint8 (N, H, W, c) -> (N, D)."""
        if self._folder is None or isinstance(extractor, Pixels):  # faster than reading
            return finite(extractor.features(images), by=extractor.name)
        seen = digest(extractor.fingerprint.encode() + images.numpy().tobytes())
        size = "x".join(map(str, images.shape))
        file = self._folder / f"{extractor.name}-features-{size}-{seen}.npy"
        if not file.exists():
            self._folder.mkdir(parents=True, exist_ok=True)
            with written_at(file) as beside, open(beside, "wb") as out:
                np.save(out, finite(extractor.features(images), by=extractor.name))
        kept: Features = np.load(file)
        return finite(kept, by=extractor.name)
