"""Ctrl-C, and the signals that terminals and queues send before they end a process, as a question
that the program asks itself at safe places."""

from __future__ import annotations

import signal
import time
from types import FrameType, TracebackType
from typing import Any

from dit_lab.core.errors import StopRequested

LIKE_SIGTERM = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
"""By the first two, queues announce that time is nearly up; the last is of a lost terminal."""

SAME_SECONDS = 1.0
"""A Ctrl-C so soon after another is the same one: launchers pass on what their child has too."""


class StopSignal:
    """While entered, the first SIGTERM or SIGINT only sets a flag; a later SIGINT interrupts.

    LIKE_SIGTERM count as SIGTERM; SIGHUP that is ignored (nohup) stays so.
    Long loops (training, sampling, validation) call `check` where stopping loses nothing.
    """

    def __init__(self) -> None:
        self.asked = 0  # how often: a sign of life
        self._received: int | None = None
        self._at = 0.0  # when
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        for number in (signal.SIGTERM, signal.SIGINT, *LIKE_SIGTERM):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._receive)
        return self

    def _receive(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._received is None:
            self._received = signal.SIGTERM if number in LIKE_SIGTERM else number
            self._at = now
        elif number == signal.SIGINT and now - self._at > SAME_SECONDS:
            raise KeyboardInterrupt

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def ask(self) -> None:
        """Ask to stop, as SIGTERM does."""
        self._received = self._received or signal.SIGTERM

    @property
    def requested(self) -> bool:
        """Whether somebody asked to stop."""
        return self._received is not None

    @property
    def number(self) -> int:
        """Of the signal that asked to stop, 0 while nobody has."""
        self.asked += 1
        return self._received or 0

    def check(self) -> None:
        """Raise StopRequested if somebody asked to stop."""
        if number := self.number:
            raise StopRequested(number)
