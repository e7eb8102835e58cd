"""Images in [-1, 1] to bytes and files: a PNG grid, a folder of PNGs, an ADM-style npz."""

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
from dit_lab.core.files import written_at
from dit_lab.core.text import one_line

PICTURE_CHANNELS = (1, 3)  # what a PNG can show
MIN_CELL_PIXELS = 64  # smaller images are enlarged in a grid, by whole pixels
CAPTION_PIXELS = 15
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def to_uint8(images: Tensor, levels: int = 256) -> Tensor:
    """(N, c, H, W) in [-1, 1] -> uint8 (N, H, W, c) on the CPU, as files hold them.

    `levels` is how many brightnesses the data knows (17 for scikit-learn's digits): images are
    rounded to these, as the data's own were, and spread over 0..255.
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
    """Write groups of images, `num_images` in all, to `out`: .npz, .png with the names of the
    classes, or a folder.

    Of an .npz or a folder only one group is in memory at a time; ADM's evaluator reads the first.
    """
    if out.suffix == ".npz":
        with written_at(out) as beside:
            _write_arrays(beside, groups, num_images)
    elif out.suffix == ".png":
        images, labels = map(torch.cat, zip(*groups, strict=True))
        write_grid(out, images, columns=columns, captions=captions_of(labels, class_names))
    else:
        with written_at(out) as beside:  # a folder with a part of them would look like all
            _write_folder(beside, groups, digits=max(5, len(str(num_images - 1))))


def _write_arrays(file: Path, groups: Iterable[Group], num_images: int) -> None:
    """An ADM-style npz: arr_0 uint8 (N, H, W, c), arr_1 int64 (N,), neither compressed."""
    labels, done = np.empty(num_images, dtype="<i8"), 0  # small pieces kept would scatter the heap
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
        pictures = [_picture(image) for image in images]  # refused before there is a folder
        out.mkdir(exist_ok=True)
        for picture, label in zip(pictures, labels.tolist(), strict=True):
            picture.save(out / f"{number:0{digits}d}-class-{label}.png")
            number += 1


def write_grid(
    out: Path, images: Tensor, *, columns: int, captions: Sequence[str] | None = None
) -> None:
    """A PNG of uint8 images (N, H, W, c), row by row, with a one-pixel gap between cells, and the
    caption of each image, as far as there is room for it, below it."""
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
    with written_at(out) as beside:
        picture.save(beside, format="PNG")


def _fitting(caption: str, font: Font, room: int) -> str:
    """As much of a caption as so many pixels have room for, as one line."""
    text = one_line(caption)
    if font.getlength(text) <= room:
        return text
    while text and font.getlength(f"{text}.") > room:
        text = text[:-1]
    return f"{text}."


def captions_of(labels: Tensor, names: Sequence[str]) -> list[str] | None:
    """The names of the classes of images with these labels (N,), the label itself where it has
    none; None of a model without classes."""
    known = dict(enumerate(names))
    return [known.get(label, str(label)) for label in labels.tolist()] if names else None


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
