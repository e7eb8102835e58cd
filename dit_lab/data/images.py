"""Conversion of image files to pixels: decoding, cropping and flipping.

Shapes: N images of H x W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dit_lab.core.rng import uniform
from dit_lab.data.opening import MAX_PIXELS, has_alpha, opened, turned, unreadable

STRIP_PIXELS = SCALED_PIXELS = 2**24  # pixels processed at once
Transparency = Literal["drop", "white", "black"]

CROP_RANGE = (0.8, 1.0)  # random crops, as a fraction of the image's shorter side
DEEP_GREY = ("I;16", "I;16B", "I;16L", "I")  # Pillow's modes of 16-bit files


@dataclass(frozen=True, kw_only=True)
class Transform:
    """Conversion of an image file to H x W pixels.

    - `crop="centre"` takes the central part, as ADM and DiT prepare ImageNet; "random" takes a part
      of 0.8 to 1 of the image at a random position.
    - `horizontal_flip` flips half of the images.
    - `exif="apply"` applies the EXIF orientation; the original implementations ignore it.
    - `transparency="white"` or "black" composites transparent images over that colour; "drop"
      discards the alpha channel.

    Random choices depend only on (seed, sample counter). Images without a counter are cropped at
    the centre and not flipped.
    """

    height: int
    width: int
    crop: Literal["centre", "random"] = "centre"
    horizontal_flip: bool = False
    exif: Literal["ignore", "apply"] = "ignore"
    transparency: Transparency = "drop"
    seed: int = 0

    def crops(self, counters: Tensor | None, count: int) -> Sequence[tuple[float, ...] | None]:
        """Return the `crop` argument of `load` for each of `count` images.

        It is three draws from U[0, 1), or None for the centre.
        """
        if self.crop == "centre" or counters is None:
            return [None] * count
        names = ("scale", "top", "left")
        draws = [uniform(self.seed, f"crop/{name}", counters).tolist() for name in names]
        return list(zip(*draws, strict=True))

    def load(self, path: Path, crop: tuple[float, ...] | None = None) -> np.ndarray:
        """Return a file's RGB pixels, uint8 (H, W, 3); raise `RequestError` if unreadable."""
        with opened(path) as image:
            image.load()
            if self.exif == "apply":
                image = turned(image)
            rgb = to_rgb(image, self.transparency)
        try:
            if crop is None:
                return np.asarray(centre_crop(rgb, self.height, self.width))
            return np.asarray(random_crop(rgb, self.height, self.width, crop))
        except ValueError as error:
            raise unreadable(path, error) from None

    def flip(self, images: Tensor, counters: Tensor | None) -> Tensor:
        """Flip the images (N, C, H, W) that `is_flipped` selects: half of them."""
        if not self.horizontal_flip or counters is None:
            return images
        flipped = is_flipped(self.seed, counters)  # (N,)
        return torch.where(flipped[:, None, None, None], images.flip(-1), images)


def is_flipped(seed: int, counters: Tensor) -> Tensor:
    """Return which images, by their sample counters (N,), are flipped: bool (N,)."""
    return uniform(seed, "flip", counters) < 0.5


def to_rgb(image: Image.Image, transparency: Transparency = "drop") -> Image.Image:
    """Convert an image of any mode to RGB; 16-bit grey is scaled to 8 bits.

    `transparency` "drop" discards the alpha channel; a colour is the background to composite over.

    Raises:
        ValueError: for floating-point pixels, whose range is unknown.
    """
    if image.mode in DEEP_GREY:
        image = _by_strips(image, "L", _to_8_bits)
    if image.mode == "F":
        raise ValueError("pixels are floating-point numbers, without a known range")
    if transparency != "drop" and has_alpha(image):
        return _by_strips(image, "RGB", partial(_laid_over, colour=transparency))
    return image if image.mode == "RGB" else image.convert("RGB")


def _by_strips(
    image: Image.Image, mode: str, change: Callable[[Image.Image], Image.Image]
) -> Image.Image:
    """Convert an image strip by strip, which limits memory: the largest images take 716 MB."""
    changed = Image.new(mode, image.size)
    rows = max(1, STRIP_PIXELS // max(1, image.width))
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        changed.paste(change(strip), (0, top))
    return changed


def _to_8_bits(grey: Image.Image) -> Image.Image:
    values = np.asarray(grey)
    if values.min() < 0 or values.max() > 0xFFFF:
        raise ValueError(f"{grey.mode} pixels from {values.min()} to {values.max()}")
    return Image.fromarray(((values.astype(np.uint32) * 255 + 0x7FFF) // 0xFFFF).astype(np.uint8))


def _laid_over(image: Image.Image, colour: str) -> Image.Image:
    whole = image.convert("RGBA")
    below = Image.new("RGB", whole.size, colour)
    below.paste(whole, mask=whole.getchannel("A"))
    return below


def centre_crop(image: Image.Image, height: int, width: int) -> Image.Image:
    """Return the central H x W pixels of an image scaled to cover H x W, as ADM and DiT do.

    Large images are first halved with a box filter while both sides stay at least as long as H and
    W, because a single bicubic step over a large factor aliases; a bicubic step does the rest.
    Published ImageNet results use images prepared this way.

    Source: Dhariwal and Nichol 2021, arXiv:2105.05233.
    """
    return _covering(image, height, width, lambda w, h: ((w - width) // 2, (h - height) // 2))


def random_crop(image: Image.Image, height: int, width: int, draws: Sequence[float]) -> Image.Image:
    """Return a random crop of H x W pixels; `draws` from U[0, 1) set its size, top and left.

    The image is scaled to cover H x W, or up to 1 / 0.8 of that, as in ADM's random crop.
    """
    least, most = CROP_RANGE
    size, top, left = draws
    factor = 1 / most + size * (1 / least - 1 / most)

    def place(w: int, h: int) -> tuple[int, int]:
        return math.floor(left * (w - width + 1)), math.floor(top * (h - height + 1))

    return _covering(image, height, width, place, factor=factor)


def _covering(
    image: Image.Image,
    height: int,
    width: int,
    place: Callable[[int, int], tuple[int, int]],
    *,
    factor: float = 1.0,
) -> Image.Image:
    """Scale an image to the smallest size that covers `factor` times H x W and crop H x W of it.

    `place` maps the scaled (width, height) to the (left, top) of the crop. For a large scaled size,
    only the part around the crop is scaled, which gives the same pixels up to rounding. Raises
    ValueError if the scaled image would be too long.
    """
    least_height, least_width = math.ceil(height * factor), math.ceil(width * factor)
    while image.height >= 2 * least_height and image.width >= 2 * least_width:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = max(least_height / image.height, least_width / image.width)
    size = round(image.width * scale), round(image.height * scale)
    if math.prod(size) > max(MAX_PIXELS, 4 * least_height * least_width):
        raise ValueError(f"{image.width} x {image.height} pixels, too long for {width} x {height}")
    left, top = place(*size)
    box = (left, top, left + width, top + height)
    if math.prod(size) <= max(SCALED_PIXELS, 16 * height * width):
        return image.resize(size, Image.Resampling.BICUBIC).crop(box)
    ratios = image.width / size[0], image.height / size[1]
    source = [at * ratio for at, ratio in zip(box, 2 * ratios, strict=True)]
    margins = [math.ceil(2 * max(1.0, ratio)) + 1 for ratio in ratios]  # the bicubic support
    near = (
        max(0, math.floor(source[0]) - margins[0]),
        max(0, math.floor(source[1]) - margins[1]),
        min(image.width, math.ceil(source[2]) + margins[0]),
        min(image.height, math.ceil(source[3]) + margins[1]),
    )
    part = [at - near[axis % 2] for axis, at in enumerate(source)]
    return image.crop(near).resize(
        (width, height), Image.Resampling.BICUBIC, box=(part[0], part[1], part[2], part[3])
    )


def to_pixels(images: np.ndarray) -> Tensor:
    """Convert uint8 (N, H, W, C) to float32 (N, C, H, W), mapping 0 to -1 and 255 to 1."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1
