"""Progress messages while images are drawn."""

from __future__ import annotations

import time
from collections.abc import Callable

from dit_lab.core.text import counted
from dit_lab.tracking.console import duration

EVERY_SECONDS = 10.0


class DrawingProgress:
    """Reports every EVERY_SECONDS how many images are drawn, and the estimated time left."""

    def __init__(self, on_message: Callable[[str], None]) -> None:
        self._on_message = on_message
        self._first: tuple[int, float] | None = None  # images and time at the first call
        self._said = time.monotonic()

    def __call__(self, done: int, count: int) -> None:
        """Report that `done` of `count` images are drawn."""
        now = time.monotonic()
        if self._first is None or done <= self._first[0]:  # the images of the next sampling seed
            self._first = (done, now)
        if now - self._said < EVERY_SECONDS or done == count:
            return
        self._said = now
        before, since = self._first
        left = ""
        if done > before:
            left = f", {duration((count - done) * (now - since) / (done - before))} left"
        self._on_message(f"{done:,} of {counted(count, 'image')} are drawn{left}")
