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
    turned = transparent = 0
    for file in files:
        try:
            with opened(Path(file)) as image:
                turned += noted_turn(image) is not None
                transparent += has_alpha(image)
        except RequestError as refusal:
            if not skips:
                raise RequestError(f"{refusal}, or give {SKIP}") from None
    of = f"of {counted(len(files), 'image')}" + ("" if whole else " that were looked at")
    does = "are turned accordingly" if exif == "apply" else "stay as they lie in their files"
    shows = "the colours below are shown" if transparency == "drop" else "laid over that colour"
    notes = {
        f"{turned:,} {of} with an EXIF orientation (dataset.exif={exif}): {does}": turned,
        f"{transparent:,} {of} with transparency (dataset.transparency={transparency}): "
        f"{shows}": transparent,
    }
    return tuple(note for note, count in notes.items() if count)
