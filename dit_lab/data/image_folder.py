"""A person's own images: a folder with one folder for each class, or with images alone.

Shapes: N images of H x W pixels. What may lie in the folder is told in folder_listing.py.
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

MAX_KEPT_BYTES = 256 * 2**20  # of cropped images per split and process; 87,000 at 32 pixels


class ImageFolder(ImageFiles):
    """RGB images from folders that name their classes. Implements `types.Dataset`.

    Images are cropped to `image_size` pixels when they are first asked for, changed as
    `images.Transform` says, and kept in memory as far as `MAX_KEPT_BYTES` go.

    Where the folder has no splits of its own, `validation_share` of every class is held out. That
    depends on the paths of the files alone: it is the same for every seed, and a file that is
    added moves no other, except in a class so small that a file was held out (or kept) only for
    that side not to be empty. `num_classes` is found in the folder; a number declared here must
    agree with it, except that 0 ignores class folders, for an unconditional model. `reading` is how
    the folder was read when a run was recorded.

    Raises `RequestError` for a folder that cannot be trained on, and, in `fetch`, for an image
    that cannot be read.
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
        """The file of one image."""
        return self._root / self._paths[index]
