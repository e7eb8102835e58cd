"""SIGTERM, SIGUSR1 and Ctrl-C as a question that the program asks itself at safe places."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any

from dit_lab.core.errors import StopRequested


class StopSignal:
    """While entered, the first SIGTERM or SIGINT only sets a flag; a second SIGINT interrupts.

    SIGUSR1, by which queues announce that time is nearly up, counts as SIGTERM.
    Long loops (training, sampling, validation) call `check` where stopping loses nothing.
    """

    def __init__(self) -> None:
        self.asked = 0  # how often: a sign of life
        self._received: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._receive)
        return self

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._received = signal.SIGTERM if number == signal.SIGUSR1 else number

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
