"""What SLURM says of the jobs that it was given: which of them it still has. Torch-free."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterable, Sequence

ASK_SECONDS = 5.0  # between two questions
MOMENT_SECONDS = 0.2  # what is asked of several jobs at once is one question
ANSWER_SECONDS = 30.0
LONG_SECONDS = 60.0  # by then a launcher has submitted all jobs of a round


def name_in_queue(sweep: str, attempt: str) -> str:
    """What SLURM calls the jobs of an attempt's round: one plain word."""
    word = re.sub(r"[^\w.-]", "_", sweep, flags=re.ASCII)
    return f"{word}-{_round_of(attempt)}"


def _round_of(attempt: str) -> str:
    return attempt.partition(".")[0]


def is_asked(launcher: Sequence[str]) -> bool:
    """Whether jobs that were started in this way are in a queue of SLURM's."""
    return any(text.startswith("hydra/launcher=") and "slurm" in text for text in launcher)


class Queue:
    """The attempts at a sweep's jobs that SLURM has: they wait, run, or are being ended."""

    def __init__(self, sweep: str, attempts: Iterable[str]) -> None:
        self._names = {name_in_queue(sweep, attempt) for attempt in attempts}
        self._ids: dict[str, str] | None = None
        self._seen: set[str] = set()
        self._came: dict[str, float] = {}  # round -> when the first of its attempts was seen
        self._asked = -ASK_SECONDS

    def has(self, attempt: str) -> bool:
        """Whether it is there, as far as is known: SLURM may not answer for a while."""
        ids = self.ids()
        if ids is not None and attempt not in ids:  # it may have come since
            ids = self.ids(at_most=MOMENT_SECONDS)
        return ids is None or attempt in ids

    def lost(self, attempt: str) -> bool:
        """Whether it was there and is not any more, or has not been seen there though others of its
        round were, LONG_SECONDS ago: it went before anybody asked."""
        self.ids()
        came = self._came.get(_round_of(attempt))
        is_late = came is not None and time.monotonic() - came > LONG_SECONDS
        return (attempt in self._seen or is_late) and not self.has(attempt)

    def ids(self, *, at_most: float = ASK_SECONDS) -> dict[str, str] | None:
        """Attempt -> its id in SLURM, for `scancel`; None where SLURM does not answer.

        at_most: how many seconds old the answer may be.
        """
        if time.monotonic() - self._asked >= at_most:
            self._ids = self._ask()
            self._seen |= (self._ids or {}).keys()
            for attempt in self._seen:
                self._came.setdefault(_round_of(attempt), time.monotonic())
            self._asked = time.monotonic()
        return self._ids

    def _ask(self) -> dict[str, str] | None:
        names = ",".join(sorted(self._names))
        command = ["squeue", "--noheader", "--array", f"--name={names}", "--format=%j %K %i"]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=True, timeout=ANSWER_SECONDS
            )
        except (OSError, subprocess.SubprocessError):
            return None
        found = {}
        for name, index, number in (line.split() for line in done.stdout.splitlines()):
            place = index if index.isdecimal() else "0"  # the only job of its round
            found[f"{name.rpartition('-')[2]}.{place}"] = number
        return found
