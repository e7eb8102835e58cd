"""MNIST, Fashion-MNIST and CIFAR-10, from the files that torchvision downloads.

Shapes: N images of H x W pixels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from dit_lab.core.errors import RequestError
from dit_lab.data.image_facts import given_folder
from dit_lab.data.images import Transform, to_pixels
from dit_lab.data.torchvision_facts import IDX_FILES, idx_facts, idx_file, idx_values


class ImagesInMemory:
    """Images held in memory as bytes. Implements `types.Dataset`.

    With `horizontal_flip`, half of the training images are flipped, by (seed, sample counter).
    """

    def __init__(
        self, images: np.ndarray, labels: np.ndarray, *, horizontal_flip: bool, seed: int
    ) -> None:
        self._images = images  # (N, H, W, C) uint8
        self._labels = torch.from_numpy(labels.astype(np.int64))  # (N,)
        height, width = images.shape[1:3]
        self._transform = Transform(
            height=height, width=width, horizontal_flip=horizontal_flip, seed=seed
        )

    def __len__(self) -> int:
        return len(self._labels)

    def fetch(self, indices: Tensor, counters: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return images (N, C, H, W) float32 in [-1, 1] and labels (N,) int64."""
        pixels = to_pixels(self._images[indices.numpy()])
        return self._transform.flip(pixels, counters), self._labels[indices]


class MNIST(ImagesInMemory):
    """Handwritten digits, 28 x 28 (LeCun et al. 1998); the test set is held out.

    `root` holds the four idx files, see torchvision_facts.py; `download` downloads them.
    """

    family = "MNIST"

    def __init__(
        self,
        *,
        split: Literal["train", "validation"],
        root: str | Path,
        download: bool = False,
        horizontal_flip: bool = False,
        seed: int = 0,
    ) -> None:
        facts = idx_facts(self.family, root=root, download=download)
        folder = given_folder(root)
        files = [idx_file(folder, self.family, name) for name in IDX_FILES[split]]
        count = {"train": facts.train_images, "validation": facts.validation_images}[split]
        images = idx_values(files[0], (count, facts.height, facts.width, 1))
        labels = idx_values(files[1], (count,))
        super().__init__(images, labels, horizontal_flip=horizontal_flip, seed=seed)


class FashionMNIST(MNIST):
    """Articles of clothing, 28 x 28 (Xiao et al. 2017); the test set is held out."""

    family = "FashionMNIST"


class CIFAR10(ImagesInMemory):
    """Photographs, 32 x 32 (Krizhevsky 2009); the test set is held out.

    `root` holds the folder cifar-10-batches-py; `download` downloads it. torchvision verifies the
    hash of every file before it is read.
    """

    def __init__(
        self,
        *,
        split: Literal["train", "validation"],
        root: str | Path,
        download: bool = False,
        horizontal_flip: bool = False,
        seed: int = 0,
    ) -> None:
        from torchvision.datasets import CIFAR10 as Files  # noqa: N811 - seconds to import

        folder = given_folder(root)
        try:
            files = Files(folder, train=split == "train", download=download)
        except (RuntimeError, OSError) as error:
            raise RequestError(
                f"dataset.root={folder}: {' '.join(str(error).split())[:200]}; "
                "dataset.download=true downloads the files"
            ) from None
        labels = np.asarray(files.targets)
        super().__init__(files.data, labels, horizontal_flip=horizontal_flip, seed=seed)
