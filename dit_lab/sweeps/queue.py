"""SLURM's queue: which jobs of a sweep it still has. Torch-free."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterable, Sequence

ASK_SECONDS = 5.0  # between two calls of squeue
MOMENT_SECONDS = 0.2  # answers younger than this are used again
ANSWER_SECONDS = 30.0  # timeout of squeue
LONG_SECONDS = 60.0  # after which a launcher has submitted all jobs of a round


def name_in_queue(sweep: str, attempt: str) -> str:
    """Return SLURM's name for the jobs of an attempt's round: one plain word."""
    word = re.sub(r"[^\w.-]", "_", sweep, flags=re.ASCII)
    return f"{word}-{_round_of(attempt)}"


def _round_of(attempt: str) -> str:
    return attempt.partition(".")[0]


def is_asked(launcher: Sequence[str]) -> bool:
    """Return whether a launcher submits its jobs to SLURM."""
    return any(text.startswith("hydra/launcher=") and "slurm" in text for text in launcher)


class Queue:
    """The attempts at a sweep's jobs that SLURM has, whether they wait, run or are being ended."""

    def __init__(self, sweep: str, attempts: Iterable[str]) -> None:
        self._names = {name_in_queue(sweep, attempt) for attempt in attempts}
        self._ids: dict[str, str] | None = None
        self._seen: set[str] = set()
        self._came: dict[str, float] = {}  # round -> when the first of its attempts was seen
        self._asked = -ASK_SECONDS

    def has(self, attempt: str) -> bool:
        """Return whether SLURM has the attempt; True while SLURM does not answer."""
        ids = self.ids()
        if ids is not None and attempt not in ids:  # it may have been submitted since
            ids = self.ids(at_most=MOMENT_SECONDS)
        return ids is None or attempt in ids

    def lost(self, attempt: str) -> bool:
        """Return whether an attempt has left the queue.

        It has left if it was seen there before, or if it was never seen although another attempt of
        its round was, more than LONG_SECONDS ago.
        """
        self.ids()
        came = self._came.get(_round_of(attempt))
        is_late = came is not None and time.monotonic() - came > LONG_SECONDS
        return (attempt in self._seen or is_late) and not self.has(attempt)

    def ids(self, *, at_most: float = ASK_SECONDS) -> dict[str, str] | None:
        """Return attempt -> id in SLURM, for `scancel`; None if SLURM does not answer.

        `at_most` is the greatest age of the answer in seconds.
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
            place = index if index.isdecimal() else "0"  # not an array: the round has one job
            found[f"{name.rpartition('-')[2]}.{place}"] = number
        return found
