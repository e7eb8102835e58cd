"""Child processes, and the CPU threads, GPUs and memory of a process."""

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
KEPT_BYTES = 2**31 - 1  # largest value that mallopt takes

MEETING_FILE = "DIT_LAB_MEETING_FILE"
"""Environment variable with the file through which the processes of one machine form a group."""


class ChildProcess:
    """`python -m MODULE ARGUMENTS` in a process group of its own, which ends with this process.

    The child gets a complete environment, plus what this command trusts. It does not search the
    current folder for modules. Its standard input is a pipe to which nothing is written: the pipe
    closes when this process ends for any reason, which tells the child to save and stop. Its output
    is appended to `output`, or goes where this process prints.
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
            env=with_trust(environment),
            start_new_session=True,  # Ctrl-C reaches only this process, which passes it on
        )
        if log:
            log.close()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    def poll(self) -> int | None:
        """Return the exit code, -n after signal n, or None while the process runs.

        Kills processes that the child started and left running.
        """
        code = self._process.poll()
        if code is not None:
            self._kill_group()
        return code

    def stop(self) -> None:
        """Tell the child to save and end (SIGTERM)."""
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the child and all processes that it started."""
        self._kill_group()
        self._process.wait()

    def _kill_group(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)


def with_trust(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment with what this command trusts, and with Python's safe path.

    With the safe path, modules in the current folder cannot replace those of Python and of
    packages.
    """
    return {**environment, **trust.environment(), "PYTHONSAFEPATH": "1"}


def worker(
    folder: Path, *, environment: Mapping[str, str], output: Path | None = None
) -> ChildProcess:
    """Start a process of this package that runs the task in a folder (`dit_lab/cli/worker.py`)."""
    return ChildProcess("dit_lab", ["worker", str(folder)], environment=environment, output=output)


def end_with_the_parent() -> None:
    """Stop this process, a `ChildProcess`, by SIGTERM when the process that started it ends."""

    def wait() -> None:
        while os.read(sys.stdin.fileno(), 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="parent", daemon=True).start()


def on_loopback() -> dict[str, str]:
    """Return environment variables that restrict gloo and NCCL to the loopback interface."""
    loopback = {name for _, name in socket.if_nameindex()} & {"lo", "lo0"}  # Linux, macOS
    return {f"{library}_SOCKET_IFNAME": name for library in ("GLOO", "NCCL") for name in loopback}


def usable_cpus() -> int:
    """Return the number of CPUs this process may use, or all CPUs if unknown (macOS)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def threads_each(places: int) -> int:
    """Return the number of threads for each of `places` processes that compute on the CPU."""
    return max(1, usable_cpus() // places)


def most_memory_bytes() -> int:
    """Return the peak memory of this process so far, in bytes."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS, kB on Linux
    return most if sys.platform == "darwin" else most * 1024


def gpus() -> list[str]:
    """Return the indices of the available GPUs, without importing torch."""
    if (given := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name for name in given.split(",") if name]
    if shutil.which("nvidia-smi") is None:
        return []
    asked = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    return done.stdout.split() if done.returncode == 0 else []


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for reuse by this process.

    By default, glibc returns blocks to the system and gets them anew, page by page and zeroed, at
    every layer of an inference pass. With this setting, a forward pass of 64 images takes 0.88 of
    the CPU time for an S model and 0.93 for a nano model; with 2 images there is no difference.
    Blocks above 256 MB are still returned, and so is the end of the heap above 2 GB. Under another
    C library this does nothing.
    """
    m_trim_threshold, m_mmap_threshold = -1, -3  # constants of malloc.h
    library = ctypes.CDLL(None)
    if hasattr(library, "gnu_get_libc_version"):
        library.mallopt(m_mmap_threshold, KEPT_BLOCK_BYTES)
        library.mallopt(m_trim_threshold, KEPT_BYTES)
