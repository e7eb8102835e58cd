"""A look at what the headers of some image files say, before a training begins. Torch-free."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from dit_lab.core.errors import RequestError
from dit_lab.core.text import counted
from dit_lab.data.opening import SKIP, has_alpha, noted_turn, opened


@lru_cache(maxsize=8)  # for all jobs of a sweep
def glance(
    files: tuple[str, ...], *, whole: bool, exif: str, transparency: str, skips: bool
) -> tuple[str, ...]:
    """Lines on images that are turned or transparent; `whole` where these files are all.

    Raises RequestError for a file that is no image, unless such are skipped.
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
    of = f"of {counted(len(files), 'image')}" + ("" if whole else " that were looked at")
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
    """Images that a camera noted an orientation of, and what is done with them."""
    does = "turned" if exif == "apply" else "left as they lie"
    return f"with an EXIF orientation: {does} (dataset.exif={exif})"


def transparent_parts(transparency: str) -> str:
    """Transparent images, and what is done with them."""
    does = "the colours below show" if transparency == "drop" else f"laid over {transparency}"
    return f"with transparency: {does} (dataset.transparency={transparency})"
