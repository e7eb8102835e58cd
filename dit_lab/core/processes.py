"""A command in a process group of its own, which ends with the process that started it, and how a
process that computes on the CPU shares it with others and holds its memory."""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from dit_lab.core import trust

KEPT_BLOCK_BYTES = 256 * 2**20
KEPT_BYTES = 2**31 - 1  # the most that can be asked for

MEETING_FILE = "DIT_LAB_MEETING_FILE"
"""The variable that names a file by which the processes of one machine find each other."""


class Child:
    """`python -m MODULE ARGUMENTS`, in a whole environment of its own, with what this command
    trusts. The folder in which it is started is not searched for modules.

    Its standard input is a pipe that nothing is written to: it ends when this process does, however
    that happens, and tells the child to save and stop. What it prints is appended to `output`, or
    goes where this process prints.
    """

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        *,
        environment: Mapping[str, str],
        output: Path | None = None,
    ) -> None:
        self._started = time.monotonic()
        log = open(output, "ab") if output else None  # noqa: SIM115 - closed below
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT if log else None,
            env=trusting(environment),
            start_new_session=True,  # Ctrl-C reaches us alone, and we pass it on
        )
        if log:
            log.close()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

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


def trusting(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process that trusts what this command does, and that finds no module in
    the folder where it is started before those of Python and of packages."""
    return {**environment, **trust.environment(), "PYTHONSAFEPATH": "1"}


def worker(folder: Path, *, environment: Mapping[str, str], output: Path | None = None) -> Child:
    """A process of this package that does what a folder describes (`dit_lab/cli/worker.py`)."""
    return Child("dit_lab", ["worker", str(folder)], environment=environment, output=output)


def end_with_the_parent() -> None:
    """In a `Child`: when the process that started it is gone, stop as if it had said so."""

    def wait() -> None:
        while os.read(sys.stdin.fileno(), 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="parent", daemon=True).start()


def on_loopback() -> dict[str, str]:
    """Variables that let gloo and NCCL talk over the loopback interface alone."""
    loopback = {name for _, name in socket.if_nameindex()} & {"lo", "lo0"}  # Linux, macOS
    return {f"{library}_SOCKET_IFNAME": name for library in ("GLOO", "NCCL") for name in loopback}


def usable_cpus() -> int:
    """How many processors this process may use; all of the machine where the system does not say,
    as macOS."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def threads_each(places: int) -> int:
    """Threads for each of `places` processes that compute side by side on the CPU."""
    return max(1, usable_cpus() // places)


def most_memory_bytes() -> int:
    """The most memory that this process has taken so far. macOS counts it in bytes, Linux in kB."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def gpus() -> list[str]:
    """The GPUs that may be used, without asking torch."""
    if (given := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name for name in given.split(",") if name]
    if shutil.which("nvidia-smi") is None:
        return []
    asked = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    return done.stdout.split() if done.returncode == 0 else []


def keep_freed_memory() -> None:
    """Let this process use memory again that it has freed, where the C library is glibc.

    Left to itself, glibc gives blocks back to the system and gets them anew, page by page and set
    to zero, at every layer of a model that is not trained. A forward pass of 64 images takes 0.88
    of the processor time with this in an S, 0.93 in a nano, and the same for 2 images. Blocks above
    256 MB still go back, and so does the end of the heap above 2 GB. Under another C library this
    does nothing.
    """
    m_trim_threshold, m_mmap_threshold = -1, -3  # of malloc.h
    library = ctypes.CDLL(None)
    if hasattr(library, "gnu_get_libc_version"):
        library.mallopt(m_mmap_threshold, KEPT_BLOCK_BYTES)
        library.mallopt(m_trim_threshold, KEPT_BYTES)
