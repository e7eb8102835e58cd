"""From image files to pixels: decoding, the centre crop of ADM and DiT, and the flip.

Shapes: N images, S x S pixels.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dit_lab.rng import uniform
from dit_lab.types import RequestError


def load_image(path: Path, size: int) -> np.ndarray:
    """The central square of an image file as RGB, uint8 (S, S, 3); `RequestError` if unreadable."""
    try:
        with Image.open(path) as image:
            cropped = centre_crop(image.convert("RGB"), size)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RequestError(
            f"{path}: cannot be read as an image ({reason}); replace or remove it"
        ) from error
    return np.asarray(cropped)


def centre_crop(image: Image.Image, size: int) -> Image.Image:
    """The central square of an image, scaled to `size` pixels a side, as ADM and DiT prepare it.

    Large images are first halved with a box filter while the shorter side stays at least `size`,
    because one bicubic step over a large factor aliases; bicubic does the rest. Public ImageNet
    numbers are computed on images made this way (Dhariwal and Nichol 2021, arXiv:2105.05233).
    """
    while min(image.size) >= 2 * size:
        width, height = image.size
        image = image.resize((width // 2, height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    width, height = (round(side * scale) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))


def to_pixels(images: np.ndarray) -> Tensor:
    """uint8 (N, S, S, C) to float32 (N, C, S, S): 0 is -1 and 255 is 1."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1


def random_flip(images: Tensor, seed: int, counters: Tensor) -> Tensor:
    """Mirror half of the images (N, C, S, S), by (seed, sample counter (N,)) alone."""
    flipped = uniform(seed, "flip", counters) < 0.5  # (N,)
    return torch.where(flipped[:, None, None, None], images.flip(-1), images)
