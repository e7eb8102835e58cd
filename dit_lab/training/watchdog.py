"""Watchdog: ends a training that hangs, after every process has written its stack traces."""

from __future__ import annotations

import faulthandler
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

LOOKS = 8  # checks for progress within the time limit


class Watchdog:
    """Context that ends this process if no process of the training makes progress.

    Processes wait for each other, so one that hangs blocks all of them, and each detects it at the
    same time. A process that waits for a busy one does not hang: each process touches a file in a
    shared folder while it makes progress, and all processes watch all of these files.
    """

    def __init__(
        self,
        folder: Path,
        *,
        index: int,
        seconds: float | None,
        progress: Callable[[], int],
        on_hang: Callable[[str], None],
    ) -> None:
        """Prepare the watchdog.

        Args:
            folder: shared folder of the progress files and stack traces.
            index: index of this process.
            seconds: time without progress after which the process ends; None for never.
            progress: returns a number that changes with any progress of this process.
            on_hang: called with a message, in a thread of its own, before the process ends.
        """
        self._folder, self._own = folder, folder / f"alive-{index}"
        self._stacks = folder / f"stacks-{index}.txt"
        self._seconds, self._progress, self._on_hang = seconds, progress, on_hang
        self._over = threading.Event()

    def __enter__(self) -> Watchdog:
        if self._seconds is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._stacks.unlink(missing_ok=True)  # from an earlier start
            threading.Thread(
                target=self._watch, args=[self._seconds], name="watchdog", daemon=True
            ).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._own.unlink(missing_ok=True)
        with suppress(OSError):  # not empty: other processes still run, or stacks were written
            self._folder.rmdir()

    def _watch(self, seconds: float) -> None:
        known: int | None = None
        seen: dict[str, int] = {}
        since = time.monotonic()
        while not self._over.wait(seconds / LOOKS):
            if (now := self._progress()) != known:
                known = now
                with suppress(OSError):  # another process may have removed the folder
                    self._own.touch()
            if (signs := self._signs_of_life()) != seen:
                seen, since = signs, time.monotonic()
            elif time.monotonic() - since > seconds:
                self._end(seconds)

    def _signs_of_life(self) -> dict[str, int]:
        """Return the time at which each process last touched its file."""
        signs = {}
        for file in self._folder.glob("alive-*"):
            with suppress(OSError):  # its process has just ended
                signs[file.name] = file.stat().st_mtime_ns
        return signs

    def _end(self, seconds: float) -> None:
        with open(self._stacks, "w", encoding="utf-8") as file:
            faulthandler.dump_traceback(file, all_threads=True)
        try:
            self._on_hang(
                f"no process made progress for {seconds:g} s; stack traces of all processes are in "
                f"{self._folder}/stacks-*.txt; the same command resumes from the last checkpoint"
            )
        finally:
            os._exit(1)  # a hanging thread cannot be ended otherwise
