"""Opening of image files: supported formats, and properties known before decoding.

Torch-free.
"""

from __future__ import annotations

import logging
import os
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING

from dit_lab.core.errors import RequestError
from dit_lab.data.folder_listing import NOT_A_FILE

if TYPE_CHECKING:  # importing Pillow takes 0.05 s
    from PIL import Image

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")  # by content; others start programs
OPAQUE = 255
MAX_PIXELS = 178_956_970  # of one image; Pillow's limit for decoding

SKIP = "dataset.on_bad_image=skip to go on without it"

ORIENTATION = 0x0112  # EXIF tag number
_TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}  # EXIF orientation -> transposition, as in `ImageOps.exif_transpose`

_STDERR = threading.RLock()  # held while stderr is redirected

logging.getLogger("PIL").setLevel(logging.CRITICAL)  # important problems are raised


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """Open an image file of one of `FORMATS`; pixels are decoded on access.

    All exceptions become `RequestError`, because decoders may raise any exception on invalid files.
    """
    from PIL import Image

    try:
        with regular_file(path) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # readable files with minor faults are accepted
            with Image.open(file, formats=FORMATS) as image, _quiet_decoder(image):
                yield image
    except Exception as error:
        raise unreadable(path, error) from error


@contextmanager
def _quiet_decoder(image: Image.Image) -> Iterator[None]:
    """Silence stderr while decoding TIFF: the library prints errors that are also raised."""
    if image.format != "TIFF":
        yield
        return
    with _STDERR:
        before, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, 2)
            yield
        finally:
            os.dup2(before, 2)
            os.close(before)
            os.close(nowhere)


def regular_file(path: Path) -> BufferedReader:
    """Open a file for reading; raise ValueError for a pipe or a device, which may never end."""
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise ValueError(NOT_A_FILE)
    return open(number, "rb")


def unreadable(path: Path, error: Exception) -> RequestError:
    """Return the error for a file that is not an image or cannot be used."""
    from PIL import UnidentifiedImageError

    reason = " ".join(str(getattr(error, "strerror", None) or error).split())
    if isinstance(error, UnidentifiedImageError):
        reason = f"not {', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
    return RequestError(
        f"{path}: cannot be read as an image ({reason or type(error).__name__}); replace or remove "
        "it"
    )


def noted_turn(image: Image.Image) -> Image.Transpose | None:
    """Return the transposition that the EXIF orientation requires, or None.

    TIFF returns None, because Pillow applies the orientation of TIFF files itself.
    """
    from PIL import Image

    try:
        noted = image.getexif().get(ORIENTATION)
    except Exception:  # broken EXIF data does not affect the pixels
        return None
    name = _TURNS.get(noted or 1) if image.format != "TIFF" else None
    return None if name is None else Image.Transpose[name]


def turned(image: Image.Image) -> Image.Image:
    """Return the image with its EXIF orientation applied."""
    turn = noted_turn(image)
    return image if turn is None else image.transpose(turn)


def has_alpha(image: Image.Image) -> bool:
    """Return whether an image may have transparent pixels."""
    return image.has_transparency_data


def lowest_alpha(image: Image.Image) -> int:
    """Return the lowest alpha of an image, OPAQUE if no pixel is transparent; decodes the image."""
    histogram = image.convert("RGBA").getchannel("A").histogram()
    return next(alpha for alpha, count in enumerate(histogram) if count)


def is_several(image: Image.Image) -> bool:
    """Return whether a file holds more than one frame."""
    return bool(getattr(image, "is_animated", False))
