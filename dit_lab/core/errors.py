"""What is raised for the person who typed the command."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class RequestError(ValueError):
    """What was asked for cannot be done: one line that says what, where, and what instead.

    The command line prints it without a traceback and exits with code 2.
    """


QUICKSTART = "or run `dit-lab train experiment=quickstart`, which needs no files"
"""What a message says to who has no data or weights yet."""


DIVERGED = "diverged"
"""The first word of what a status and a table say of a run that ended by `Diverged`."""


class Diverged(ArithmeticError):  # noqa: N818 - says what was met
    """Weights, losses or images that are not finite: nothing that was asked for can be had.

    `diagnosis` is what is known of it, for a file. The command line prints one line without a
    traceback and exits with code 1.
    """

    def __init__(self, text: str, diagnosis: Mapping[str, Any] | None = None) -> None:
        super().__init__(text, diagnosis)  # from which a process makes what another one has sent
        self.text, self.diagnosis = text, diagnosis

    def __str__(self) -> str:
        return f"{DIVERGED}: {self.text}"


class HookError(RuntimeError):
    """A hook of the user's own raised something, which is the cause of this."""

    def __init__(self, name: str, method: str, error: Exception) -> None:
        said = " ".join(str(error).split())
        reason = f"{type(error).__name__}: {said}" if said else type(error).__name__
        super().__init__(f"hook.{name}: {method} raised {reason}")


class StopRequested(Exception):  # noqa: N818 - a request, not an error
    """Somebody (SIGTERM, Ctrl-C) asked the process to save and stop. Carries the signal number."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by signal {signal_number}")
        self.signal_number = signal_number
