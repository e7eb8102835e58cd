"""Launcher of jobs through one of Hydra's launchers, on this machine or others that see the folder.

The sweep starts a host process, which passes the jobs and the ids of their attempts to Hydra, and
watches the jobs' folders. A job is the same everywhere: a process of its own,
`python -m dit_lab worker FOLDER`. A worker starts it (`sweeps/hydra_worker.py`), which may start
late and may outlive the sweep: see `sweeps/attempts.py`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dit_lab.core.processes import ChildProcess
from dit_lab.runs.folder import FAILED, RUNNING
from dit_lab.runs.manifest import PENDING, Job, Manifest, SweepFolder
from dit_lab.sweeps.attempts import Attempts, Close
from dit_lab.sweeps.launcher import Watcher
from dit_lab.sweeps.slots import FOREIGN

LOOK_SECONDS = 0.5
ENDING_SECONDS = 120.0  # longest wait for all jobs that were told to stop
HOST_SECONDS = 10.0  # longest wait for the launcher after its last job


@dataclass(kw_only=True)
class HydraLauncher:
    """Runs jobs through `hydra/launcher=...`, as `launcher.Launcher` runs them in slots."""

    folder: SweepFolder
    manifest: Manifest
    overrides: Sequence[str]  # hydra/launcher=... and its settings
    watcher: Watcher
    close: Close
    stopping: Callable[[], bool]
    on_message: Callable[[str], None]

    def run(self, jobs: Sequence[Job]) -> None:
        """Run `jobs`, and run failed jobs again, up to `sweep.retries` times.

        Attempts that are already under way are waited for.
        """
        new = [job for job in jobs if job.attempt is None]
        for _ in range(1 + self.manifest.settings["retries"]):
            if self.stopping():
                return
            self._round(jobs, new)
            new = [job for job in jobs if job.status == FAILED]
            if not new:
                return

    def _round(self, jobs: Sequence[Job], new: Sequence[Job]) -> None:
        """Submit the new jobs, and watch all jobs until they end or a stop is requested."""
        host = self._submit(new) if new else None
        attempts = Attempts(self.folder, self.manifest)
        if said := attempts.said([job for job in jobs if job not in new]):
            self.on_message(f"from an earlier start, {said}; waiting for them")
        try:
            while not self.stopping():
                host_runs = host is not None and host.poll() is None
                self._look(jobs, attempts, may_start=host_runs)
                if not attempts.open:
                    break
                time.sleep(LOOK_SECONDS)
            else:
                self._revoke()
            if host is not None:
                self._leave(host)
        finally:
            if host is not None:
                host.kill()
        if attempts.open:
            self._wait(jobs, attempts)
        self.folder.write(self.manifest)

    def _submit(self, jobs: Sequence[Job]) -> ChildProcess:
        """Submit the jobs to the launcher, each with a new attempt."""
        self.manifest.rounds += 1
        for place, job in enumerate(jobs):
            job.status, job.error = PENDING, None
            job.attempt = f"{self.manifest.rounds}.{place}"
        self.folder.write(self.manifest)
        given = ",".join(f"{job.number}@{job.attempt}" for job in jobs)
        return ChildProcess(
            "dit_lab.sweeps.hydra_host",
            [str(self.folder.root), given, *self.overrides],
            environment={k: v for k, v in os.environ.items() if k not in FOREIGN},
            output=self.folder.launcher_log,
        )

    def _revoke(self) -> None:
        """Tell the workers to end: running ones save first, others end as soon as they start."""
        for job in self.manifest.jobs:
            job.attempt = None
        self.folder.write(self.manifest)

    def _leave(self, host: ChildProcess) -> None:
        """Wait for the launcher to end by itself, unless a stop was requested."""
        deadline = time.monotonic() + HOST_SECONDS
        while host.poll() is None and time.monotonic() < deadline and not self.stopping():
            time.sleep(LOOK_SECONDS)

    def _wait(self, jobs: Sequence[Job], attempts: Attempts) -> None:
        """Wait for the jobs that were told to end, and report those that are still under way."""
        deadline = time.monotonic() + ENDING_SECONDS
        self._look(jobs, attempts, over=True)
        while any(job.status == RUNNING for job in jobs) and time.monotonic() < deadline:
            time.sleep(LOOK_SECONDS)
            self._look(jobs, attempts, over=True)
        if said := attempts.said(jobs):
            self.on_message(f"{said}; running jobs end once saved, queued ones as they start")

    def _look(
        self,
        jobs: Sequence[Job],
        attempts: Attempts,
        *,
        may_start: bool = False,
        over: bool = False,
    ) -> None:
        """Record the jobs that have started or ended."""
        changed = False
        for job in jobs:
            if job.number not in attempts.open:
                continue
            before = job.status
            attempts.look(job, may_start=may_start, over=over, close=self.close)
            has_ended = job.number not in attempts.open
            if has_ended and job.status == PENDING and not over:
                job.status = FAILED
                job.error = f"was not started; {self.folder.launcher_log} says why"
            if has_ended and job.status != PENDING:
                self.watcher.on_job_end(self.manifest, job)
            elif job.status == RUNNING != before:
                self.watcher.on_job_start(job)
            changed = changed or has_ended or job.status != before
        if changed:
            self.folder.write(self.manifest)
        self.watcher.on_look(self.manifest)
