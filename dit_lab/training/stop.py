"""Stop signals: Ctrl-C and SIGTERM are recorded, and the program stops where nothing is lost."""

from __future__ import annotations

import signal
import time
from types import FrameType, TracebackType
from typing import Any

from dit_lab.core.errors import StopRequested

LIKE_SIGTERM = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
"""Queues send the first two shortly before their time limit; the third means a lost terminal."""

SAME_SECONDS = 1.0
"""A second Ctrl-C within this time is a duplicate, because launchers forward the signal that their
child has also received.
"""


class StopSignal:
    """Context in which the first SIGTERM or SIGINT only sets a flag; a later SIGINT interrupts.

    Signals in LIKE_SIGTERM count as SIGTERM; a SIGHUP that is ignored (nohup) stays ignored. Long
    loops (training, sampling, validation) call `check` where stopping loses nothing.
    """

    def __init__(self) -> None:
        self.asked = 0  # number of checks, which the watchdog takes as progress
        self._received: int | None = None
        self._at = 0.0  # time of the signal
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
        """Request a stop, as SIGTERM does."""
        self._received = self._received or signal.SIGTERM

    @property
    def requested(self) -> bool:
        """Whether a stop was requested."""
        return self._received is not None

    @property
    def number(self) -> int:
        """Number of the signal that requested a stop, or 0."""
        self.asked += 1
        return self._received or 0

    def check(self) -> None:
        """Raise StopRequested if a stop was requested."""
        if number := self.number:
            raise StopRequested(number)
