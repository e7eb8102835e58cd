"""Real images to measure generated ones against: the training images and held-out ones.

Shapes: N images of H x W pixels and c channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from dit_lab.core.types import Dataset, ImageSet
from dit_lab.sampling.images import to_uint8

FETCH_IMAGES = 256


@dataclass(frozen=True, slots=True)
class Reference:
    """What generated images are compared with; the held-out images were never trained on."""

    train: ImageSet
    held_out: ImageSet
    num_classes: int  # 0: labels mean nothing
    absent_classes: tuple[int, ...] = ()  # without training images


def load_images(
    dataset: Dataset,
    *,
    at_most: int,
    levels: int,
    check_stop: Callable[[], None] = lambda: None,
) -> ImageSet:
    """Up to `at_most` images of a split, evenly spread over it (lists are often sorted by class),
    without augmentation."""
    count = min(at_most, len(dataset))
    chosen = torch.arange(count) * len(dataset) // count
    pixels, labels = [], []
    for indices in chosen.split(FETCH_IMAGES):
        check_stop()  # thousands of files take longer to read than a stop may wait
        images, given = dataset.fetch(indices, None)
        pixels.append(to_uint8(images, levels))  # a part at a time: bytes are a quarter of floats
        labels.append(given)
    return ImageSet(torch.cat(pixels), torch.cat(labels))
