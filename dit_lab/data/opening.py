"""Opening image files: which formats, and what is known before their pixels are decoded.

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

if TYPE_CHECKING:  # Pillow takes a twentieth of a second: for who opens an image
    from PIL import Image

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")  # by content; others start programs
OPAQUE = 255
MAX_PIXELS = 178_956_970  # of one image, as Pillow limits what it decodes

SKIP = "dataset.on_bad_image=skip to go on without it"

ORIENTATION = 0x0112  # EXIF's number of it
_TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}  # of EXIF's orientation, as `ImageOps.exif_transpose` does it

_STDERR = threading.RLock()  # held by who redirects it

logging.getLogger("PIL").setLevel(logging.CRITICAL)  # what matters is raised


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """The image in a file, one of `FORMATS`, decoded when its pixels are asked for. Whatever that
    raises becomes a `RequestError`: a decoder may raise anything on bytes that are no image."""
    from PIL import Image

    try:
        with regular_file(path) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what can be read in spite of a mistake is read
            with Image.open(file, formats=FORMATS) as image, _quiet_decoder(image):
                yield image
    except Exception as error:
        raise unreadable(path, error) from error


@contextmanager
def _quiet_decoder(image: Image.Image) -> Iterator[None]:
    """The library that decodes TIFF files prints what it raises as well: that goes nowhere."""
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
    """A file that is opened for reading; ValueError for a pipe or a device, which may never end."""
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise ValueError(NOT_A_FILE)
    return open(number, "rb")


def unreadable(path: Path, error: Exception) -> RequestError:
    """The refusal of a file that is no image, or one that cannot be used."""
    from PIL import UnidentifiedImageError

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
    from PIL import Image

    try:
        noted = image.getexif().get(ORIENTATION)
    except Exception:  # whatever stands there, the pixels can be read
        return None
    name = _TURNS.get(noted or 1) if image.format != "TIFF" else None
    return None if name is None else Image.Transpose[name]


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
