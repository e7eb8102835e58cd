"""A training that hangs ends, and says where: every process writes the stacks of its threads."""

from __future__ import annotations

import faulthandler
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

LOOKS = 8  # for signs of life, in the time that is given


class Watchdog:
    """While entered, ends this process once none of those that train together makes progress.

    Processes wait for each other, so that one that hangs stops all, and each sees it at the same
    time. One that waits for another which is still busy is no hang: signs of life are files in a
    folder that all of them see, one for each process, touched while it makes progress.
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
        """`progress()` changes with whatever this process (number `index`) does. None: never.

        `on_hang` is told in one sentence, in a thread of its own, before the process ends.
        """
        self._folder, self._own = folder, folder / f"alive-{index}"
        self._stacks = folder / f"stacks-{index}.txt"
        self._seconds, self._progress, self._on_hang = seconds, progress, on_hang
        self._over = threading.Event()

    def __enter__(self) -> Watchdog:
        if self._seconds is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._stacks.unlink(missing_ok=True)  # of an earlier start
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
        with suppress(OSError):  # the last of them removes it, unless there are stacks
            self._folder.rmdir()

    def _watch(self, seconds: float) -> None:
        known: int | None = None
        seen: dict[str, int] = {}
        since = time.monotonic()
        while not self._over.wait(seconds / LOOKS):
            if (now := self._progress()) != known:
                known = now
                with suppress(OSError):  # the folder goes with the first process that is done
                    self._own.touch()
            if (signs := self._signs_of_life()) != seen:
                seen, since = signs, time.monotonic()
            elif time.monotonic() - since > seconds:
                self._end(seconds)

    def _signs_of_life(self) -> dict[str, int]:
        """Of every process: when it last touched its file."""
        signs = {}
        for file in self._folder.glob("alive-*"):
            with suppress(OSError):  # of a process that has just ended
                signs[file.name] = file.stat().st_mtime_ns
        return signs

    def _end(self, seconds: float) -> None:
        with open(self._stacks, "w", encoding="utf-8") as file:
            faulthandler.dump_traceback(file, all_threads=True)
        try:
            self._on_hang(
                f"no process made progress for {seconds:g} s; where each of them is stands in "
                f"{self._folder}/stacks-*.txt; the same command goes on from the last checkpoint"
            )
        finally:
            os._exit(1)  # the thread that hangs cannot be ended otherwise
