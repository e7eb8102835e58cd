"""Real images that generated images are evaluated against: training and held-out images.

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
    """Real images for an evaluation; the held-out images were never trained on."""

    train: ImageSet
    held_out: ImageSet
    num_classes: int  # 0: unconditional, labels are unused
    absent_classes: tuple[int, ...] = ()  # classes without training images


def load_images(
    dataset: Dataset,
    *,
    at_most: int,
    levels: int,
    check_stop: Callable[[], None] = lambda: None,
) -> ImageSet:
    """Return up to `at_most` images of a split, evenly spaced over it, without augmentation.

    Even spacing matters because datasets are often sorted by class.
    """
    count = min(at_most, len(dataset))
    chosen = torch.arange(count) * len(dataset) // count
    pixels, labels = [], []
    for indices in chosen.split(FETCH_IMAGES):
        check_stop()  # reading thousands of files takes long
        images, given = dataset.fetch(indices, None)
        pixels.append(to_uint8(images, levels))  # converted in parts to save memory
        labels.append(given)
    return ImageSet(torch.cat(pixels), torch.cat(labels))
