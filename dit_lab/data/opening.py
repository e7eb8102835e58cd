"""Opening image files: which formats, and what is known before their pixels are decoded.

Torch-free.
"""

from __future__ import annotations

import logging
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from PIL import ExifTags, Image, UnidentifiedImageError

from dit_lab.core.errors import RequestError
from dit_lab.data.folder_listing import NOT_A_FILE

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")  # by content; others start programs
OPAQUE = 255
MAX_PIXELS = 178_956_970  # of one image, as Pillow limits what it decodes

SKIP = "dataset.on_bad_image=skip to go on without it"

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # of EXIF's orientation, as `ImageOps.exif_transpose` does it

logging.getLogger("PIL").setLevel(logging.CRITICAL)  # what matters is raised


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """The image in a file, one of `FORMATS`, decoded when its pixels are asked for. Whatever that
    raises becomes a `RequestError`: a decoder may raise anything on bytes that are no image."""
    try:
        with regular_file(path) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what can be read in spite of a mistake is read
            with Image.open(file, formats=FORMATS) as image:
                yield image
    except Exception as error:
        raise unreadable(path, error) from error


def regular_file(path: Path) -> BufferedReader:
    """A file that is opened for reading; ValueError for a pipe or a device, which may never end."""
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise ValueError(NOT_A_FILE)
    return open(number, "rb")


def unreadable(path: Path, error: Exception) -> RequestError:
    """The refusal of a file that is no image, or one that cannot be used."""
    reason = " ".join(str(getattr(error, "strerror", None) or error).split())
    if isinstance(error, UnidentifiedImageError):
        reason = f"not {', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
    return RequestError(
        f"{path}: cannot be read as an image ({reason or type(error).__name__}); replace or remove "
        "it"
    )


def noted_turn(image: Image.Image) -> Image.Transpose | None:
    """How a camera noted beside the pixels that an image is to be turned. Pillow turns TIFF files
    itself."""
    try:
        noted = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # whatever stands there, the pixels can be read
        return None
    return None if image.format == "TIFF" else _TURNS.get(noted or 1)


def turned(image: Image.Image) -> Image.Image:
    """An image as its camera noted, or as it is."""
    turn = noted_turn(image)
    return image if turn is None else image.transpose(turn)


def has_alpha(image: Image.Image) -> bool:
    """Whether an image may be transparent somewhere."""
    return image.has_transparency_data


def lowest_alpha(image: Image.Image) -> int:
    """That of the most transparent pixel, which decodes the image; OPAQUE where none is."""
    histogram = image.convert("RGBA").getchannel("A").histogram()
    return next(alpha for alpha, count in enumerate(histogram) if count)


def is_several(image: Image.Image) -> bool:
    """Whether a file holds more than one picture."""
    return bool(getattr(image, "is_animated", False))
