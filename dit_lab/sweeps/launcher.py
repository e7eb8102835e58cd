"""Launcher of the jobs of a sweep, each in a slot; it keeps the manifest up to date.

A job that fails, is killed or runs out of memory does not affect the others. Jobs that share a run
folder (equal weights) run one after the other: the first trains, the others reuse its weights.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from dit_lab.core.errors import RequestError
from dit_lab.core.processes import ChildProcess, worker
from dit_lab.runs.folder import FAILED, FINISHED, KILLED, RUNNING, RunFolder, read_status
from dit_lab.runs.lock import Busy
from dit_lab.runs.manifest import PENDING, Job, Manifest, SweepFolder
from dit_lab.sweeps.slots import Slot

POLL_SECONDS = 0.02
LOOK_SECONDS = 1.0  # between two calls of Watcher.on_look
LAST_BYTES = 2000  # of a job's output, which contain its last line
# exit codes of a job that was stopped: after it saved, and before it could save anything
STOPPED = (128 + signal.SIGTERM, -signal.SIGTERM)


@dataclass(frozen=True, slots=True)
class Running:
    """The process of a job, and its slot."""

    process: ChildProcess
    slot: Slot


class Watcher(Protocol):
    """Listener to the progress of a sweep."""

    def on_job_start(self, job: Job) -> None: ...

    def on_job_end(self, manifest: Manifest, job: Job) -> None: ...

    def on_look(self, manifest: Manifest) -> None: ...


@dataclass(kw_only=True)
class Launcher:
    """Runs jobs in slots until all have ended or a stop is requested."""

    folder: SweepFolder
    manifest: Manifest
    slots: Sequence[Slot]
    watcher: Watcher
    close: Callable[[RunFolder], object]  # records how a killed run ended
    stopping: Callable[[], bool]

    def run(self, jobs: Sequence[Job]) -> None:
        """Run `jobs`; their statuses are in the manifest afterwards."""
        waiting, free = list(jobs), list(self.slots)
        self._jobs, self._changed = jobs, False
        self._tries_left = {job.number: self.manifest.settings["retries"] for job in jobs}
        running: dict[int, Running] = {}
        told = False
        last_look = 0.0
        try:
            while running or (waiting and not self._enough()):
                self._reap(waiting, running, free)
                if not self._enough():
                    self._start(waiting, running, free)
                elif self.stopping() and not told:
                    told = True
                    for one in running.values():
                        one.process.stop()
                self._write()
                if time.monotonic() - last_look > LOOK_SECONDS:
                    last_look = time.monotonic()
                    self.watcher.on_look(self.manifest)
                time.sleep(POLL_SECONDS)
        finally:
            for one in running.values():  # after a second Ctrl-C, or an error in this process
                one.process.kill()
        self.watcher.on_look(self.manifest)

    def _enough(self) -> bool:
        """Return whether no further job is to be started."""
        if self.stopping():
            return True
        careful = self.manifest.settings["on_failure"] == "stop"
        return careful and any(job.status == FAILED for job in self._jobs)

    def _start(self, waiting: list[Job], running: dict[int, Running], free: list[Slot]) -> None:
        """Start the jobs for which a slot is free, and whose run folder no running job uses."""
        busy = {self.manifest.jobs[number].run for number in running}
        for job in list(waiting):
            if not free:
                return
            if job.run in busy:
                continue
            waiting.remove(job)
            job.status, job.error = RUNNING, None
            job.attempts += 1
            self._changed = True
            self._write()  # before the process starts
            slot = free.pop(0)
            process = worker(
                self.folder.job(job),
                environment=slot.environment(),
                output=self.folder.job_output(job),
            )
            running[job.number] = Running(process, slot)
            busy.add(job.run)
            self.watcher.on_job_start(job)

    def _write(self) -> None:
        """Write the manifest if it has changed; with many jobs this takes a while."""
        if self._changed:
            self.folder.write(self.manifest)
            self._changed = False

    def _reap(self, waiting: list[Job], running: dict[int, Running], free: list[Slot]) -> None:
        """Record the jobs that have ended; a failed job with retries left waits again."""
        for number, one in list(running.items()):
            code = one.process.poll()
            if code is None:
                continue
            job = self.manifest.jobs[number]
            del running[number]
            free.append(one.slot)
            job.seconds += one.process.seconds
            record_end(self.folder, job, code, close=self.close)
            if job.status == FAILED and self._tries_left[number] > 0:
                self._tries_left[number] -= 1
                job.status = PENDING
                waiting.append(job)
            self._changed = True
            self.watcher.on_job_end(self.manifest, job)


def record_end(
    folder: SweepFolder, job: Job, code: int, *, close: Callable[[RunFolder], object]
) -> None:
    """Record the end of a job whose process exited with `code`."""
    job.status = FINISHED if code == 0 else KILLED if code in STOPPED else FAILED
    job.error = _why(code, _last_line(folder.job_output(job))) if job.status == FAILED else None
    try:
        run = folder.run(job)
        status = read_status(run)
        found = folder.read_result(job) if code == 0 else status
        job.run_id = found.get("tracking_run_id")
        if status.get("status") == RUNNING:
            close(run)
    except Busy:  # another sweep or command trains that run
        return
    except RequestError as damage:  # damaged files of this job do not affect the others
        job.status, job.error = FAILED, str(damage)


def _last_line(output: Path) -> str:
    with open(output, "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - LAST_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    return lines[-1].removeprefix("dit-lab: ") if lines else ""


def _why(code: int, last_line: str) -> str:
    """Return why a job failed, in one line."""
    if code < 0:
        name = signal.Signals(-code).name
        return f"killed by {name}" + (" (out of memory?)" if code == -signal.SIGKILL else "")
    if code in (1, 2) and last_line:
        return last_line
    return f"ended with exit code {code}"
