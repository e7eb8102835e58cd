"""Dataset of images named in lists, for user data and for ImageNet.

Shapes: N images of H x W pixels. The layout below `root`:

    train_labels.txt, val_labels.txt    `image_path class_id` per line (see list_file.py)
    images/                             paths in the lists are relative to this folder, or begin
                                        with its name
    class_names.txt                     optional, one name per line; line 1 is class 0
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import torch

from dit_lab.core.errors import RequestError
from dit_lab.core.text import local_path
from dit_lab.data.image_facts import labelled_list_facts
from dit_lab.data.image_files import ImageFiles, OnBadImage
from dit_lab.data.images import Transform, Transparency
from dit_lab.data.list_file import (
    IMAGES_FOLDER,
    TRAIN_LIST,
    VALIDATION_LIST,
    file_of,
    read_list,
)
from dit_lab.data.options import ImageSize


class LabelledList(ImageFiles):
    """RGB images from the lists of a folder, decoded on access. Implements `types.Dataset`.

    Images are cropped to `image_size` and transformed (`images.Transform`). A path or a link that
    leads out of `images/` is refused unless `allow_outside`; `images/` itself may be a link.
    `num_classes` is read from the folder. A number given here must agree with it, except 0, which
    sets all labels to 0, for an unconditional model.

    Raises:
        RequestError: if a file is missing, if the lists are inconsistent, or, in `fetch`, if an
            image cannot be read.
    """

    def __init__(
        self,
        *,
        split: Literal["train", "validation"],
        root: str | Path,
        image_size: ImageSize,
        horizontal_flip: bool,
        crop: Literal["centre", "random"] = "centre",
        exif: Literal["ignore", "apply"] = "ignore",
        on_bad_image: OnBadImage = "error",
        transparency: Transparency = "drop",
        allow_outside: bool = False,
        num_classes: int | None = None,
        seed: int = 0,
    ) -> None:
        facts = labelled_list_facts(
            root=root,
            image_size=image_size,
            horizontal_flip=horizontal_flip,
            allow_outside=allow_outside,
            num_classes=num_classes,
        )
        folder = local_path(root, "dataset.root=")
        file = folder / {"train": TRAIN_LIST, "validation": VALIDATION_LIST}[split]
        self._list = read_list(file, allow_outside=allow_outside)
        self._images = folder / IMAGES_FOLDER
        self._inside = None if allow_outside else os.path.realpath(self._images)
        labels = torch.from_numpy(self._list.class_ids)
        super().__init__(
            labels=labels if facts.num_classes else torch.zeros_like(labels),
            transform=Transform(
                height=facts.height,
                width=facts.width,
                crop=crop,
                horizontal_flip=horizontal_flip,
                exif=exif,
                transparency=transparency,
                seed=seed,
            ),
            on_bad_image=on_bad_image,
        )

    def path(self, index: int) -> Path:
        """Return the file of one image; raise `RequestError` if a link leads out of the folder."""
        path = file_of(self._images, self._list.path(index))
        if self._inside is not None:
            real = os.path.realpath(path)
            if not real.startswith(self._inside + os.sep):
                raise RequestError(
                    f"{path}: is a link out of {IMAGES_FOLDER}/, to {real}; copy the image, or "
                    "give dataset.allow_outside=true"
                )
        return path
