"""A quick check of some image headers before training. Torch-free."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from dit_lab.core.errors import RequestError
from dit_lab.core.text import counted
from dit_lab.data.opening import SKIP, has_alpha, noted_turn, opened


@lru_cache(maxsize=8)  # shared by all jobs of a sweep in this process
def glance(
    files: tuple[str, ...], *, whole: bool, exif: str, transparency: str, skips: bool
) -> tuple[str, ...]:
    """Return notes on rotated, transparent and unreadable images among `files`.

    Args:
        files: the images to open.
        whole: whether `files` are all images of the dataset.
        exif: `dataset.exif`.
        transparency: `dataset.transparency`.
        skips: whether training skips unreadable images.

    Raises:
        RequestError: if a file cannot be read as an image, unless `skips`.
    """
    turned = transparent = unreadable = 0
    for file in files:
        try:
            with opened(Path(file)) as image:
                turned += noted_turn(image) is not None
                transparent += has_alpha(image)
        except RequestError as refusal:
            if not skips:
                raise RequestError(f"{refusal}, or give {SKIP}") from None
            unreadable += 1
    of = f"of {counted(len(files), 'image' if whole else 'checked image')}"
    return tuple(
        f"{count:,} {of} {meaning}"
        for count, meaning in (
            (turned, orientation(exif)),
            (transparent, transparent_parts(transparency)),
            (unreadable, "that cannot be read: skipped (dataset.on_bad_image=skip)"),
        )
        if count
    )


def orientation(exif: str) -> str:
    """Describe images with an EXIF orientation and what `dataset.exif` does with them."""
    does = "rotated" if exif == "apply" else "not rotated"
    return f"with an EXIF orientation: {does} (dataset.exif={exif})"


def transparent_parts(transparency: str) -> str:
    """Describe transparent images and what `dataset.transparency` does with them."""
    does = "alpha ignored" if transparency == "drop" else f"composited over {transparency}"
    return f"with transparency: {does} (dataset.transparency={transparency})"
