"""Datasets of image files, decoded on access; unreadable files are skipped or refused.

Shapes: N images of H x W pixels.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from dit_lab.core.errors import RequestError
from dit_lab.data.images import Transform, to_pixels
from dit_lab.data.opening import SKIP

_log = logging.getLogger(__name__)

_told: set[str] = set()  # warnings already logged in this process

OnBadImage = Literal["error", "skip"]
MAX_SKIPPED_IN_A_ROW = 100


class ImageFiles:
    """RGB images from files. Implements `types.Dataset`; subclasses define `path`.

    Args:
        labels: (N,) int64.
        transform: the crop and augmentation.
        on_bad_image: "skip" replaces an unreadable image and its label by the next readable one,
            always the same, with one warning; "error" raises RequestError.
        max_kept_bytes: memory for caching centre crops; a large photo takes tenths of a second to
            decode.
    """

    def __init__(
        self,
        *,
        labels: Tensor,
        transform: Transform,
        on_bad_image: OnBadImage,
        max_kept_bytes: int = 0,
    ) -> None:
        self.labels = labels  # (N,) int64
        self.transform = transform
        self._on_bad_image = on_bad_image
        self._kept: dict[int, np.ndarray] = {}  # index -> uint8 (H, W, 3)
        self._max_kept = max_kept_bytes // (3 * transform.height * transform.width)
        self._bad: dict[int, str] = {}  # index -> reason, of skipped images
        self._untold: list[str] = []

    def __len__(self) -> int:
        return len(self.labels)

    def path(self, index: int) -> Path:
        """Return the file of one image."""
        raise NotImplementedError

    def fetch(self, indices: Tensor, counters: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return images (N, 3, H, W) float32 in [-1, 1] and labels (N,) int64.

        Opens only the files at `indices` (N,), or their replacements. The sample counters (N,)
        determine crop and flip; None crops the centre and flips none.
        """
        crops = self.transform.crops(counters, len(indices))
        found = [
            self._readable(index, crop) for index, crop in zip(indices.tolist(), crops, strict=True)
        ]
        pixels = to_pixels(np.stack([image for image, _ in found]))
        chosen = torch.tensor([index for _, index in found], dtype=torch.int64)
        return self.transform.flip(pixels, counters), self.labels[chosen]

    def messages(self) -> list[str]:
        """Return warnings of a worker process since the last call, for the main process to log."""
        told, self._untold = self._untold, []
        return told

    def _readable(self, index: int, crop: tuple[float, ...] | None) -> tuple[np.ndarray, int]:
        """Return the image at `index`, or the next readable one when skipping, and its index."""
        for ahead in range(min(len(self), MAX_SKIPPED_IN_A_ROW)):
            place = (index + ahead) % len(self)
            if place in self._bad:
                continue
            path = self.path(place)
            try:
                return self._image(place, path, crop), place
            except RequestError as error:
                if self._on_bad_image == "error":
                    raise RequestError(f"{error}, or give {SKIP}") from error
                self._bad[place] = str(error)
                if get_worker_info() is None:
                    if str(error) not in _told:  # unless another dataset object logged it
                        _log.warning("skipped %s", error)
                    _told.add(str(error))
                else:
                    self._untold.append(f"skipped {error}")
        raise RequestError(
            f"{self._bad[index]}; the images after it cannot be read either: "
            "`dit-lab check` lists all unreadable images"
        )

    def _image(self, index: int, path: Path, crop: tuple[float, ...] | None) -> np.ndarray:
        if crop is not None:
            return self.transform.load(path, crop)
        if index in self._kept:
            return self._kept[index]
        image = self.transform.load(path)
        if len(self._kept) < self._max_kept:
            self._kept[index] = image
        return image
