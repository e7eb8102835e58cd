"""One job in a process group of its own, which ends with the sweep that started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from dit_lab.sweeps.slots import Slot


class JobProcess:
    """`python -m dit_lab.cli.job FOLDER`. What it prints goes to the job's output.log.

    Its standard input is a pipe that nothing is written to: it ends when this process does, however
    that happens, and tells the job to save and stop.
    """

    def __init__(self, folder: Path, output: Path, slot: Slot) -> None:
        self.slot = slot
        self.started = time.monotonic()
        with open(output, "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "dit_lab.cli.job", str(folder)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=slot.environment(),
                start_new_session=True,  # Ctrl-C reaches the sweep alone, which passes it on
            )

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def poll(self) -> int | None:
        """The exit code, -n where signal n ended it, None while it runs.

        What it started and left behind is ended with it.
        """
        code = self._process.poll()
        if code is not None:
            self._kill_group()
        return code

    def stop(self) -> None:
        """Let it save and end."""
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it and all that it started, at once."""
        self._kill_group()
        self._process.wait()

    def _kill_group(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)


def end_with_the_sweep() -> None:
    """In a job: when the sweep's process is gone, stop as if it had said so."""

    def wait() -> None:
        while os.read(sys.stdin.fileno(), 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="sweep", daemon=True).start()
