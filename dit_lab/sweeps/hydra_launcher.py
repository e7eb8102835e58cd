"""Jobs that one of Hydra's launchers runs: other processes, or other machines that see the folder.

The sweep starts a host process that gives Hydra the numbers of the jobs, and watches the jobs'
folders: each job says in `attempt.json` that it was started and how it ended. What a job does is
the same everywhere, a process of its own, `python -m dit_lab worker FOLDER`.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dit_lab.core.processes import Child, end_with_the_parent, threads_each, worker
from dit_lab.runs.folder import FAILED, RUNNING, RunFolder, read_status, write_json
from dit_lab.runs.lock import holder_of
from dit_lab.runs.manifest import PENDING, Job, Manifest, SweepFolder
from dit_lab.sweeps.launcher import Watcher, record_end
from dit_lab.sweeps.slots import FOREIGN

LOOK_SECONDS = 0.5
ENDING_SECONDS = 120.0  # how long jobs that were told to stop are waited for
KILLED_WITH_ITS_WORKER = -9


@dataclass(kw_only=True)
class HydraLauncher:
    """Runs jobs through `hydra/launcher=...`, as `launcher.Launcher` runs them in slots."""

    folder: SweepFolder
    manifest: Manifest
    overrides: Sequence[str]  # hydra/launcher=... and its settings
    watcher: Watcher
    close: Callable[[RunFolder], object]
    stopping: Callable[[], bool]

    def run(self, jobs: Sequence[Job]) -> None:
        """Run `jobs`, and again those that fail, as often as `sweep.retries` says."""
        left = list(jobs)
        for _ in range(1 + self.manifest.settings["retries"]):
            if left and not self.stopping():
                self._round(left)
                left = [job for job in left if job.status == FAILED]

    def _round(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            job.status, job.error = PENDING, None
            self.folder.attempt(job).unlink(missing_ok=True)
        numbers = ",".join(str(job.number) for job in jobs)
        host = Child(
            "dit_lab.sweeps.hydra_host",
            [str(self.folder.root), numbers, *self.overrides],
            environment={k: v for k, v in os.environ.items() if k not in FOREIGN},
            output=self.folder.launcher_log,
        )
        try:
            while host.poll() is None and not self.stopping():
                self._look(jobs)
                time.sleep(LOOK_SECONDS)
        finally:
            host.kill()  # and its workers: jobs notice, save and end
        self._look(jobs)
        for job in jobs:
            self._settle(job)
        self.folder.write(self.manifest)

    def _look(self, jobs: Sequence[Job]) -> None:
        """Record what has started and what has ended."""
        for job in jobs:
            if job.status not in (PENDING, RUNNING):
                continue
            attempt = self.folder.read_attempt(job)
            if attempt and job.status == PENDING:
                job.status = RUNNING
                job.attempts += 1
                self.watcher.on_job_start(job)
            if "code" in attempt:
                self._end(job, attempt["code"], attempt["seconds"])
        self.watcher.on_look(self.manifest)

    def _settle(self, job: Job) -> None:
        """What became of a job whose worker has not said so: it was stopped, or lost."""
        if job.status == RUNNING:
            deadline = time.monotonic() + ENDING_SECONDS
            while holder_of(self.folder.run(job).lease) and time.monotonic() < deadline:
                time.sleep(LOOK_SECONDS)
            stopped = read_status(self.folder.run(job)).get("status") != RUNNING
            code = 143 if stopped and self.stopping() else KILLED_WITH_ITS_WORKER
            self._end(job, code, 0.0)
        elif job.status == PENDING and not self.stopping():
            job.status = FAILED
            job.attempts += 1
            job.error = f"was not started; {self.folder.launcher_log} says why"

    def _end(self, job: Job, code: int, seconds: float) -> None:
        job.seconds += seconds
        record_end(self.folder, job, code, close=self.close)
        self.folder.write(self.manifest)
        self.watcher.on_job_end(self.manifest, job)


def run_job(
    sweep: Path, number: int, *, typed_in: Path, side_by_side: int, trusted: Mapping[str, str]
) -> int:
    """Run a job to its end, on whatever machine this is; its exit code.

    `typed_in`: the folder in which the command was typed. `side_by_side`: how many jobs compute on
    this machine at once. `trusted`: what the command trusts, as environment variables. A process
    stands between this worker and the job: ray kills the children of a worker that ends, and the
    job is to notice, save and end.
    """
    kept = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    kept.setdefault("OMP_NUM_THREADS", str(threads_each(side_by_side)))
    kept |= trusted
    arguments = [str(sweep), str(number), str(typed_in)]
    between = Child("dit_lab.sweeps.hydra_launcher", arguments, environment=kept)
    try:
        while (code := between.poll()) is None:
            time.sleep(LOOK_SECONDS)
    except BaseException:  # this worker is told to end
        between.stop()
        raise
    return code


def _start_and_watch(sweep: Path, number: int, typed_in: Path) -> int:
    folder = SweepFolder(sweep)
    job = folder.read().jobs[number]
    attempt: dict[str, Any] = {"host": socket.gethostname(), "started": time.time()}
    write_json(folder.attempt(job), attempt)
    with suppress(OSError):  # another machine may not have it
        os.chdir(typed_in)
    child = worker(
        folder.job(job),
        environment=os.environ,
        output=folder.job_output(job),
    )
    end_with_the_parent()  # and the job with this process
    while (code := child.poll()) is None:
        time.sleep(LOOK_SECONDS)
    write_json(folder.attempt(job), {**attempt, "code": code, "seconds": child.seconds})
    return code


if __name__ == "__main__":
    sys.exit(_start_and_watch(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])))
