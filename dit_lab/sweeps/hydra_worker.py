"""The worker of one attempt at a job, on the machine where a launcher of Hydra's starts it."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from dit_lab.core.errors import RequestError
from dit_lab.core.processes import ChildProcess, end_with_the_parent, threads_each, worker
from dit_lab.runs.folder import read_json, write_json
from dit_lab.runs.lock import Busy, Lease
from dit_lab.runs.manifest import SweepFolder
from dit_lab.sweeps.launcher import STOPPED
from dit_lab.sweeps.slots import FOREIGN
from dit_lab.training.stop import StopSignal

LOOK_SECONDS = 0.5


def run_job(
    sweep: Path,
    number: int,
    attempt: str,
    *,
    typed_in: Path,
    side_by_side: int,
    trusted: Mapping[str, str],
) -> int:
    """Run a job to its end, and return its exit code.

    A process stands between this one, which is the launcher's, and the job: Ray kills the children
    of a process that ends, and the job must instead notice the end, save and stop.

    Args:
        typed_in: the folder in which the command was started.
        side_by_side: number of jobs that compute on this machine at once.
        trusted: what the command trusts, as environment variables.
    """
    kept = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    cpus = int(os.environ.get("SLURM_CPUS_ON_NODE", threads_each(side_by_side)))
    kept.setdefault("OMP_NUM_THREADS", str(min(cpus, threads_each(side_by_side))))
    kept |= trusted
    arguments = [str(sweep), str(number), attempt, str(typed_in)]
    between = ChildProcess("dit_lab.sweeps.hydra_worker", arguments, environment=kept)
    try:
        with _passing_on(between.stop):
            while (code := between.poll()) is None:
                time.sleep(LOOK_SECONDS)
    except BaseException:  # told to end; wait, since a queue kills what this process leaves behind
        between.stop()
        while between.poll() is None:
            time.sleep(LOOK_SECONDS)
        raise
    return code


@contextmanager
def _passing_on(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` on SIGTERM while entered, and then deliver the signal to its former handler.

    A queue may signal the launcher's process alone, which would end at once or pass nothing on.
    """
    before = signal.getsignal(signal.SIGTERM)
    received: list[int] = []
    if before is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def receive(number: int, frame: object) -> None:
        received.append(number)
        stop()

    signal.signal(signal.SIGTERM, receive)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        if received:
            os.kill(os.getpid(), signal.SIGTERM)


class _Attempt:
    """An attempt, which is wanted as long as the manifest has it."""

    def __init__(self, folder: SweepFolder, number: int, attempt: str) -> None:
        self._folder, self._number, self._attempt = folder, number, attempt
        self._seen, self._wanted = -1, True

    def is_wanted(self) -> bool:
        """Return whether the attempt is wanted, as far as is known: a file server may be away."""
        file = self._folder.manifest
        try:
            if (changed := file.stat().st_mtime_ns) != self._seen:
                jobs = read_json(file)["jobs"]
                self._wanted = jobs[self._number].get("attempt") == self._attempt
                self._seen = changed
        except FileNotFoundError:
            return False
        except (OSError, RequestError):
            pass
        return self._wanted


@contextmanager
def _holding(path: Path, *, stopping: Callable[[], bool]) -> Iterator[bool]:
    """Hold the lease of a job once it is free; yield False if a stop is requested before that."""
    while not stopping():
        try:
            with Lease(path, stopping=stopping):
                yield True
                return
        except Busy:
            time.sleep(LOOK_SECONDS)
    yield False


def _start_and_watch(sweep: Path, number: int, attempt: str, typed_in: Path) -> int:
    """Run the process of a job under its lease, record start and end, return the exit code."""
    folder = SweepFolder(sweep)
    wanted = _Attempt(folder, number, attempt)
    with StopSignal() as stop:

        def stopping() -> bool:
            return stop.requested or not wanted.is_wanted()

        end_with_the_parent()  # by SIGTERM, which stops the job too
        job = folder.read().jobs[number]
        with _holding(folder.job_lease(job), stopping=stopping) as held:
            before = folder.read_attempt(job, attempt)
            if not held or stopping() or before.get("code", STOPPED[0]) not in STOPPED:
                return 0  # revoked or ended
            record = {"host": socket.gethostname(), "started": time.time()}
            file = folder.attempt(job, attempt)
            file.parent.mkdir(exist_ok=True)
            write_json(file, record)
            with suppress(OSError):  # another machine may not have the folder
                os.chdir(typed_in)
            child = worker(folder.job(job), environment=os.environ, output=folder.job_output(job))
            told = False
            while (code := child.poll()) is None:
                if not told and stopping():
                    told = True
                    child.stop()
                time.sleep(LOOK_SECONDS)
            write_json(file, {**record, "code": code, "seconds": child.seconds})
    return code


if __name__ == "__main__":
    sys.exit(_start_and_watch(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], Path(sys.argv[4])))
