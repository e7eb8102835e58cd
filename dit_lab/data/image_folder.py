"""Image folder dataset: one folder per class, or images only.

Shapes: N images of H x W pixels. folder_listing.py describes the layouts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from dit_lab.data.folder_listing import read_folder
from dit_lab.data.image_facts import given_folder, sides
from dit_lab.data.image_files import ImageFiles, OnBadImage
from dit_lab.data.images import Transform, Transparency
from dit_lab.data.options import ImageSize
from dit_lab.data.split_folders import NOW

MAX_KEPT_BYTES = 256 * 2**20  # cached crops per split and process; 87,000 at 32 pixels


class ImageFolder(ImageFiles):
    """RGB images whose folders are their classes. Implements `types.Dataset`.

    Images are decoded, cropped to `image_size` and transformed on access (`images.Transform`);
    centre crops are cached in memory, up to `MAX_KEPT_BYTES`.

    If the folder does not define splits, `validation_share` of every class is held out. The split
    depends only on file paths: it is the same for every seed, and adding a file does not move other
    files, except in a class so small that one side of the split would be empty. `num_classes` is
    read from the folder. A number given here must agree with it, except 0, which ignores class
    folders, for an unconditional model. `reading` is the version of the folder-reading rules that
    the run recorded.

    Raises:
        RequestError: if the folder cannot be trained on, or, in `fetch`, if an image cannot be
            read.
    """

    def __init__(
        self,
        *,
        split: Literal["train", "validation"],
        root: str | Path,
        image_size: ImageSize,
        horizontal_flip: bool,
        validation_share: float = 0.1,
        crop: Literal["centre", "random"] = "centre",
        exif: Literal["ignore", "apply"] = "ignore",
        on_bad_image: OnBadImage = "error",
        transparency: Transparency = "drop",
        num_classes: int | None = None,
        reading: int = NOW,
        seed: int = 0,
    ) -> None:
        self._root = given_folder(root)
        height, width = sides(image_size)
        listing = read_folder(
            self._root,
            validation_share=validation_share,
            num_classes=num_classes,
            reading=reading,
        )
        by_class = {"train": listing.train, "validation": listing.validation}[split]
        self._paths = [file.path for files in by_class.values() for file in files]
        counts = torch.tensor([len(files) for files in by_class.values()])
        super().__init__(
            labels=torch.arange(len(by_class)).repeat_interleave(counts),
            transform=Transform(
                height=height,
                width=width,
                crop=crop,
                horizontal_flip=horizontal_flip,
                exif=exif,
                transparency=transparency,
                seed=seed,
            ),
            on_bad_image=on_bad_image,
            max_kept_bytes=MAX_KEPT_BYTES,
        )

    def path(self, index: int) -> Path:
        """Return the file of one image."""
        return self._root / self._paths[index]
