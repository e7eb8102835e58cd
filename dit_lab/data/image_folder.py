"""A person's own images: a folder with one folder for each class, or with images alone.

Shapes: N images, S x S pixels. What may lie in the folder is told in folder_listing.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from dit_lab.data.facts import given_folder
from dit_lab.data.folder_listing import read_folder
from dit_lab.data.images import load_image, random_flip, to_pixels

MAX_KEPT_BYTES = 256 * 2**20  # of cropped images per split and process; 87,000 at 32 pixels


class ImageFolder:
    """RGB images from folders that name their classes. Implements `types.Dataset`.

    Images are cropped to the central square of `image_size` pixels when they are first asked for,
    and kept in memory as far as `MAX_KEPT_BYTES` go: a large photo takes tenths of a second to
    decode. Transparency is dropped, and the orientation that cameras note beside the pixels is
    not applied. With `horizontal_flip`, half of the training images are mirrored, by (seed,
    sample counter).

    Where the folder has no splits of its own, `validation_share` of every class is held out. That
    depends on the paths of the files alone: it is the same for every seed, and a file that is
    added moves no other, except in a class so small that a file was held out (or kept) only for
    that side not to be empty. `num_classes` is found in the folder; a number declared here must
    agree with it, except that 0 ignores class folders, for an unconditional model.

    Raises `RequestError` for a folder that cannot be trained on, and, in `fetch`, for an image
    that cannot be read.
    """

    def __init__(
        self,
        *,
        split: Literal["train", "validation"],
        root: str | Path,
        image_size: int,
        horizontal_flip: bool,
        validation_share: float,
        num_classes: int | None = None,
        seed: int,
    ) -> None:
        self.seed = seed
        self.image_size = image_size
        self.horizontal_flip = horizontal_flip
        self._root = given_folder(root, image_size)
        listing = read_folder(
            self._root, validation_share=validation_share, num_classes=num_classes
        )
        by_class = {"train": listing.train, "validation": listing.validation}[split]
        self._paths = [file.path for files in by_class.values() for file in files]
        counts = torch.tensor([len(files) for files in by_class.values()])
        self._labels = torch.arange(len(by_class)).repeat_interleave(counts)  # (N,)
        self._kept: dict[int, np.ndarray] = {}  # index -> uint8 (S, S, 3)
        self._max_kept = MAX_KEPT_BYTES // (3 * image_size**2)

    def __len__(self) -> int:
        return len(self._paths)

    def path(self, index: int) -> Path:
        """The file of one image."""
        return self._root / self._paths[index]

    def fetch(self, indices: Tensor, counters: Tensor | None) -> tuple[Tensor, Tensor]:
        """Images (N, 3, S, S) float32 in [-1, 1] and labels (N,) int64, all 0 without classes.

        `counters` (N,) decide which images are mirrored; None mirrors none.
        """
        pixels = to_pixels(np.stack([self._image(index) for index in indices.tolist()]))
        if self.horizontal_flip and counters is not None:
            pixels = random_flip(pixels, self.seed, counters)
        return pixels, self._labels[indices]

    def _image(self, index: int) -> np.ndarray:
        if index in self._kept:
            return self._kept[index]
        image = load_image(self.path(index), self.image_size)
        if len(self._kept) < self._max_kept:
            self._kept[index] = image
        return image
