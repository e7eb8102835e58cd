"""Images in [-1, 1] to bytes and files: a PNG grid, a folder of PNGs, an ADM-style npz."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dit_lab.types import RequestError

PICTURE_CHANNELS = (1, 3)  # what a PNG can show
MIN_CELL_PIXELS = 32  # smaller images are enlarged in a grid, by whole pixels


def to_uint8(images: Tensor, levels: int = 256) -> Tensor:
    """(N, c, H, W) in [-1, 1] -> uint8 (N, H, W, c) on the CPU, as files hold them.

    `levels` is how many brightnesses the data knows (17 for scikit-learn's digits): images are
    rounded to these, as the data's own were, and spread over 0..255.
    """
    steps = levels - 1
    level = ((images.float() + 1) * (steps / 2)).round().clamp(0, steps)
    scaled = (level * (255 / steps)).round()
    return scaled.to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu()


def write_images(out: Path, images: Tensor, labels: Tensor, *, columns: int) -> None:
    """uint8 images (N, H, W, c) and labels (N,) to `out`: .npz, .png, or a folder."""
    if out.suffix == ".npz":
        with _whole(out) as beside, open(beside, "wb") as file:
            np.savez(file, images.numpy(), labels.numpy())  # arr_0, arr_1
    elif out.suffix == ".png":
        write_grid(out, images, columns=columns)
    else:
        pictures = [_picture(image) for image in images]  # refused before there is a folder
        out.mkdir(exist_ok=True)
        digits = max(5, len(str(len(images) - 1)))
        for number, (picture, label) in enumerate(zip(pictures, labels.tolist(), strict=True)):
            picture.save(out / f"{number:0{digits}d}-class-{label}.png")


def write_grid(out: Path, images: Tensor, *, columns: int) -> None:
    """A PNG of uint8 images (N, H, W, c), row by row, with a one-pixel gap between cells."""
    count, height, width, channels = images.shape
    scale = max(1, math.ceil(MIN_CELL_PIXELS / min(height, width)))
    cells = images.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    rows = math.ceil(count / columns)
    cell_height, cell_width = height * scale + 1, width * scale + 1
    sheet = torch.full((rows * cell_height - 1, columns * cell_width - 1, channels), 128).byte()
    for number, cell in enumerate(cells):
        top, left = number // columns * cell_height, number % columns * cell_width
        sheet[top : top + cell_height - 1, left : left + cell_width - 1] = cell
    with _whole(out) as beside:
        _picture(sheet).save(beside, format="PNG")


@contextmanager
def _whole(out: Path) -> Iterator[Path]:
    """A path beside `out`; what is written there takes its name, or is removed where that fails."""
    beside = out.with_name(f".{out.name}")
    try:
        yield beside
        os.replace(beside, out)
    except BaseException:
        beside.unlink(missing_ok=True)  # a full disk needs the room
        raise


def grid_columns(num_images: int, num_labels: int) -> int:
    """One column per class where labels cycle and a row holds them, else nearly square."""
    if 1 < num_labels <= 20:
        return min(num_labels, num_images)
    return math.ceil(math.sqrt(num_images))


def _picture(image: Tensor) -> Image.Image:
    """uint8 (H, W, 1 or 3) to a PIL image."""
    if image.shape[-1] not in PICTURE_CHANNELS:
        raise RequestError(
            f"images of {image.shape[-1]} channels cannot be shown; use an .npz file"
        )
    return Image.fromarray(image.squeeze(-1).numpy() if image.shape[-1] == 1 else image.numpy())
