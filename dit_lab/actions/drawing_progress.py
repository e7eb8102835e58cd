"""How far the drawing of images is, for people: a sentence now and then."""

from __future__ import annotations

import time
from collections.abc import Callable

from dit_lab.core.text import counted
from dit_lab.tracking.console import duration

EVERY_SECONDS = 10.0


class DrawingProgress:
    """Says at most every few seconds how many images there are, and how long the rest takes."""

    def __init__(self, on_message: Callable[[str], None]) -> None:
        self._on_message = on_message
        self._first: tuple[int, float] | None = None  # images, at the first call, and when
        self._said = time.monotonic()

    def __call__(self, done: int, count: int) -> None:
        """`done` of `count` images are there."""
        now = time.monotonic()
        if self._first is None or done <= self._first[0]:  # another sampling seed
            self._first = (done, now)
        if now - self._said < EVERY_SECONDS or done == count:
            return
        self._said = now
        before, since = self._first
        left = ""
        if done > before:
            left = f", {duration((count - done) * (now - since) / (done - before))} left"
        self._on_message(f"{done:,} of {counted(count, 'image')} are drawn{left}")
