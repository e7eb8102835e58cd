"""Images named by a list: the dataset for one's own pictures and for ImageNet.

Shapes: N images, S x S pixels. The layout below `root`:

    train_labels.txt, val_labels.txt    `image_path class_id` per line (see list_file.py)
    images/                             the paths in both lists are relative to this folder
    class_names.txt                     optional, one name per line; line 1 is class 0
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from dit_lab.data.facts import labelled_list_facts
from dit_lab.data.images import load_image, random_flip, to_pixels
from dit_lab.data.list_file import IMAGES_FOLDER, TRAIN_LIST, VALIDATION_LIST, read_list


class LabelledList:
    """RGB images from the lists of a folder, decoded when they are asked for.

    Implements `types.Dataset`. Images are cropped to the central square of `image_size` pixels;
    with `horizontal_flip`, half of the training images are mirrored, by (seed, sample counter).
    `num_classes` is found in the folder; a number declared here must agree with it, except that
    0 leaves the labels out (all 0) for an unconditional model.

    Raises `RequestError` for a missing file, for lists that cannot be trusted, and, in `fetch`,
    for an image that cannot be read.
    """

    def __init__(
        self,
        *,
        split: Literal["train", "validation"],
        root: str | Path,
        image_size: int,
        horizontal_flip: bool,
        num_classes: int | None = None,
        seed: int,
    ) -> None:
        facts = labelled_list_facts(
            root=root,
            image_size=image_size,
            horizontal_flip=horizontal_flip,
            num_classes=num_classes,
        )
        folder = Path(root).expanduser()
        self.seed = seed
        self.image_size = image_size
        self.horizontal_flip = horizontal_flip
        self._images_folder = folder / IMAGES_FOLDER
        lists = {"train": TRAIN_LIST, "validation": VALIDATION_LIST}
        self._list = read_list(folder / lists[split])
        labels = torch.from_numpy(self._list.class_ids)
        self._labels = labels if facts.num_classes else torch.zeros_like(labels)  # (N,)

    def __len__(self) -> int:
        return len(self._list)

    def path(self, index: int) -> Path:
        """The file of one image."""
        return self._images_folder / self._list.path(index)

    def fetch(self, indices: Tensor, counters: Tensor | None) -> tuple[Tensor, Tensor]:
        """Images (N, 3, S, S) float32 in [-1, 1] and labels (N,) int64; opens just these files.

        `counters` (N,) decide which images are mirrored; None mirrors none.
        """
        images = np.empty((len(indices), self.image_size, self.image_size, 3), np.uint8)
        for row, index in zip(images, indices.tolist(), strict=True):
            row[:] = load_image(self.path(index), self.image_size)
        pixels = to_pixels(images)
        if self.horizontal_flip and counters is not None:
            pixels = random_flip(pixels, self.seed, counters)
        return pixels, self._labels[indices]
