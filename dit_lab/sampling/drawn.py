"""Storage of generated images during sampling, so that an interrupted run loses few of them.

    <folder>/00000000.npz  00000256.npz ...     images (n, H, W, c), labels (n,), passes ()

Each file is named after the index of its first image.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from dit_lab.core.files import atomic_path
from dit_lab.core.types import ImageSet


class DrawnImages:
    """Stored images of one sampling seed, in order of their index."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def count(self) -> int:
        """Return the number of stored images from index 0 to the first gap."""
        return sum(len(part.labels) for part, _ in self._parts())

    def add(self, images: ImageSet, *, first: int, passes: int) -> None:
        """Store the images from index `first` on, and how many images models evaluated for them."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(self._file(first)) as beside, open(beside, "wb") as out:
            np.savez(out, images=images.pixels, labels=images.labels, passes=passes)

    def all(self) -> tuple[ImageSet, int]:
        """Return all images, and how many images models evaluated for them."""
        parts, passes = zip(*self._parts(), strict=True)
        pixels = torch.cat([part.pixels for part in parts])
        return ImageSet(pixels, torch.cat([part.labels for part in parts])), sum(passes)

    def remove(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def _file(self, first: int) -> Path:
        return self._folder / f"{first:08d}.npz"

    def _parts(self) -> Iterator[tuple[ImageSet, int]]:
        """Yield the images of each file and their number of evaluations, up to the first gap."""
        first = 0
        while (file := self._file(first)).exists():
            with np.load(file) as part:
                images, labels = (torch.from_numpy(part[name]) for name in ("images", "labels"))
                yield ImageSet(images, labels), int(part["passes"])
            first += len(labels)
