"""Exceptions with a message for the user."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class RequestError(ValueError):
    """A request that cannot be carried out.

    The message is one line: what is wrong, where, and what to do instead. The command line prints
    it without a traceback and exits with code 2.
    """


QUICKSTART = "or run `dit-lab train experiment=quickstart`, which needs no files"
"""Suggestion in messages about missing data or weights."""


DIVERGED = "diverged"
"""First word of the status of a run that ended with `Diverged`."""


class Diverged(ArithmeticError):  # noqa: N818 - says what was met
    """Weights, losses or images that are not finite, so that no result is possible.

    The command line prints one line without a traceback and exits with code 1.

    Attributes:
        diagnosis: Details for a file.
    """

    def __init__(self, text: str, diagnosis: Mapping[str, Any] | None = None) -> None:
        super().__init__(text, diagnosis)  # unpickling in another process needs both arguments
        self.text, self.diagnosis = text, diagnosis

    def __str__(self) -> str:
        return f"{DIVERGED}: {self.text}"


class HookError(RuntimeError):
    """An exception in a user-defined hook, which is its `__cause__`."""

    def __init__(self, name: str, method: str, error: Exception) -> None:
        said = " ".join(str(error).split())
        reason = f"{type(error).__name__}: {said}" if said else type(error).__name__
        super().__init__(f"hook.{name}: {method} raised {reason}")


class StopRequested(Exception):  # noqa: N818 - a request, not an error
    """A request to save and stop (SIGTERM, Ctrl-C), with the signal number."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by signal {signal_number}")
        self.signal_number = signal_number
