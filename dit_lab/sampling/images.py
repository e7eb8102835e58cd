"""Conversion of images in [-1, 1] to bytes and files: PNG grid, folder of PNGs, ADM-style npz."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from dit_lab.core.errors import RequestError
from dit_lab.core.files import atomic_path
from dit_lab.core.text import one_line

PICTURE_CHANNELS = (1, 3)  # what a PNG can show
MIN_CELL_PIXELS = 64  # smaller images are enlarged in a grid, by whole pixels
CAPTION_PIXELS = 15
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def to_uint8(images: Tensor, levels: int = 256) -> Tensor:
    """Convert images (N, c, H, W) in [-1, 1] to uint8 (N, H, W, c) on the CPU.

    `levels` is the number of brightness levels of the data (17 for scikit-learn's digits): images
    are rounded to these levels, as the data are, and scaled to 0..255.
    """
    steps = levels - 1
    level = ((images.float() + 1) * (steps / 2)).round().clamp(0, steps)
    scaled = (level * (255 / steps)).round()
    return scaled.to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu()


Group = tuple[Tensor, Tensor]
"""uint8 images (n, H, W, c) and their labels (n,)."""


def write_images(
    out: Path,
    groups: Iterable[Group],
    *,
    num_images: int,
    columns: int,
    class_names: Sequence[str] = (),
) -> None:
    """Write groups of images, `num_images` in total, to `out`: .npz, .png grid or folder of PNGs.

    A grid shows the class names. For an .npz, which ADM's evaluator reads, and for a folder, only
    one group at a time is in memory.
    """
    if out.suffix == ".npz":
        with atomic_path(out) as beside:
            _write_arrays(beside, groups, num_images)
    elif out.suffix == ".png":
        images, labels = map(torch.cat, zip(*groups, strict=True))
        write_grid(out, images, columns=columns, captions=captions_of(labels, class_names))
    else:
        with atomic_path(out) as beside:  # an incomplete folder would look complete
            _write_folder(beside, groups, digits=max(5, len(str(num_images - 1))))


def _write_arrays(file: Path, groups: Iterable[Group], num_images: int) -> None:
    """Write an ADM-style npz: arr_0 uint8 (N, H, W, c), arr_1 int64 (N,), uncompressed."""
    labels, done = np.empty(num_images, dtype="<i8"), 0  # one array avoids heap fragmentation
    with zipfile.ZipFile(file, "w") as archive:
        with archive.open("arr_0.npy", "w", force_zip64=True) as array:
            for images, given in groups:
                if not done:
                    _begin_array(array, "|u1", (num_images, *images.shape[1:]))
                labels[done : done + len(given)] = given.numpy()
                done += len(given)
                array.write(images.numpy().data.cast("B"))
        with archive.open("arr_1.npy", "w") as array:
            _begin_array(array, "<i8", (num_images,))
            array.write(labels.tobytes())


def _begin_array(file: IO[bytes], kind: str, shape: tuple[int, ...]) -> None:
    header = {"descr": kind, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def _write_folder(out: Path, groups: Iterable[Group], *, digits: int) -> None:
    number = 0
    for images, labels in groups:
        pictures = [_picture(image) for image in images]  # may raise, before there is a folder
        out.mkdir(exist_ok=True)
        for picture, label in zip(pictures, labels.tolist(), strict=True):
            picture.save(out / f"{number:0{digits}d}-class-{label}.png")
            number += 1


def write_grid(
    out: Path, images: Tensor, *, columns: int, captions: Sequence[str] | None = None
) -> None:
    """Write a PNG of uint8 images (N, H, W, c), row by row, with a one-pixel gap between cells.

    The caption of each image, shortened to the width of its cell, is below it.
    """
    count, height, width, channels = images.shape
    scale = max(1, math.ceil(MIN_CELL_PIXELS / min(height, width)))
    cells = images.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    rows = math.ceil(count / columns)
    cell_width = width * scale + 1
    cell_height = height * scale + 1 + (CAPTION_PIXELS if captions else 0)
    sheet = torch.full((rows * cell_height - 1, columns * cell_width - 1, channels), 128).byte()
    corners = [(n // columns * cell_height, n % columns * cell_width) for n in range(count)]
    for (top, left), cell in zip(corners, cells, strict=True):
        sheet[top : top + height * scale, left : left + width * scale] = cell
    picture = _picture(sheet)
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(CAPTION_PIXELS - 4)
    for (top, left), caption in zip(corners, captions or (), strict=False):
        place = (left + 1, top + height * scale)
        pen.text(place, _fitting(caption, font, cell_width - 2), fill="white", font=font)
    with atomic_path(out) as beside:
        picture.save(beside, format="PNG")


def _fitting(caption: str, font: Font, room: int) -> str:
    """Return a caption as one line, shortened to `room` pixels."""
    text = one_line(caption)
    if font.getlength(text) <= room:
        return text
    while text and font.getlength(f"{text}.") > room:
        text = text[:-1]
    return f"{text}."


def captions_of(labels: Tensor, names: Sequence[str]) -> list[str] | None:
    """Return the class names of labels (N,), the label if it has no name; None without names."""
    known = dict(enumerate(names))
    return [known.get(label, str(label)) for label in labels.tolist()] if names else None


def grid_columns(num_images: int, num_labels: int) -> int:
    """Return one column per class if there are 2 to 20 classes, else those of a square grid."""
    if 1 < num_labels <= 20:
        return min(num_labels, num_images)
    return math.ceil(math.sqrt(num_images))


def _picture(image: Tensor) -> Image.Image:
    """Convert uint8 (H, W, 1 or 3) to a PIL image; raise RequestError for other channels."""
    if image.shape[-1] not in PICTURE_CHANNELS:
        raise RequestError(
            f"images of {image.shape[-1]} channels cannot be shown; use an .npz file"
        )
    return Image.fromarray(image.squeeze(-1).numpy() if image.shape[-1] == 1 else image.numpy())
