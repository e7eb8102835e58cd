"""Attempts at jobs whose workers may outlive the process of the sweep.

An attempt has an id, `<round>.<place in it>`. The sweep's process writes it into the manifest, and
removes it to end the attempt. The worker carries the id. It works while the manifest has the id: it
holds the lease of the job, and records its start and its end in `attempts/<id>.json`. A worker that
starts after its id was removed exits at once. Torch-free.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dit_lab.core.text import shell_line
from dit_lab.runs.folder import FINISHED, KILLED, RUNNING, RunFolder, read_status
from dit_lab.runs.lock import Watch, read_holder
from dit_lab.runs.manifest import PENDING, Job, Manifest, SweepFolder, names_of
from dit_lab.sweeps.launcher import STOPPED, record_end
from dit_lab.sweeps.queue import Queue, is_asked

Close = Callable[[RunFolder], object]

KILLED_WITH_ITS_WORKER = -9
STOPPED_WITH_ITS_WORKER = 143


class Attempts:
    """Attempts under way at the jobs of a sweep; keeps the statuses of these jobs up to date."""

    def __init__(self, folder: SweepFolder, manifest: Manifest) -> None:
        self._folder = folder
        self.open = {job.number: job.attempt for job in manifest.jobs if job.attempt}
        self._started: dict[int, float | None] = {}  # starts that were counted
        self._watches: dict[int, list[Watch]] = {}
        asked = is_asked(manifest.settings["launcher"])
        self._queue = Queue(folder.root.name, self.open.values()) if asked else None

    def look(self, job: Job, *, may_start: bool, over: bool = False, close: Close) -> None:
        """Update the status of a job. Once its attempt has ended, it is no longer in `open`.

        Args:
            may_start: whether the launcher still runs, so that it may start the attempt.
            over: whether the attempts were told to end.
            close: records how a killed run ended.
        """
        is_held = self._is_held(job)
        # Read after the lease: a worker writes its record before it releases the lease.
        record = self._folder.read_attempt(job, self.open[job.number])
        code = record.get("code")
        if code is not None and (over or code not in STOPPED or not self._is_queued(job)):
            self._count(job, record)
            self._end(job, code, record["seconds"], close)
        elif record and is_held:
            self._count(job, record)
            job.status = RUNNING
        elif (may_start and not self._has_left(job, started=bool(record))) or self._is_queued(job):
            job.status = PENDING
        elif record:
            self._count(job, record)
            self._end(job, self._lost(job), 0.0, close)
        else:
            job.status, job.attempt = PENDING, None
            del self.open[job.number]

    def _is_held(self, job: Job) -> bool:
        leases = (self._folder.job_lease(job), self._folder.run(job).lease)
        watches = self._watches.setdefault(job.number, [Watch(path) for path in leases])
        return any(watch.is_held() for watch in watches)

    def _is_queued(self, job: Job) -> bool:
        return self._queue is not None and self._queue.has(self.open[job.number])

    def _has_left(self, job: Job, *, started: bool) -> bool:
        """Return whether the queue shows that the launcher will not start the attempt any more."""
        if self._queue is None:
            return False
        return started or self._queue.lost(self.open[job.number])

    def _count(self, job: Job, record: Mapping[str, Any]) -> None:
        """Count each start of an attempt once; a queue may start an attempt several times."""
        counted = record["started"] if job.status == RUNNING else None
        if self._started.setdefault(job.number, counted) != record["started"]:
            job.attempts += 1
        self._started[job.number] = record["started"]

    def _end(self, job: Job, code: int, seconds: float, close: Close) -> None:
        job.seconds += seconds
        job.attempt = None
        del self.open[job.number]
        record_end(self._folder, job, code, close=close)

    def _lost(self, job: Job) -> int:
        """Return the exit code of a job whose worker is gone and did not record one."""
        status = read_status(self._folder.run(job)).get("status")
        if status == FINISHED and self._folder.read_result(job):
            return 0
        return STOPPED_WITH_ITS_WORKER if status == KILLED else KILLED_WITH_ITS_WORKER

    def said(self, jobs: Sequence[Job]) -> str:
        """Return which of these jobs run or wait, and how to end them; "" if none do."""
        left = [job for job in jobs if job.number in self.open]
        by_state = {
            "still running": [job for job in left if job.status == RUNNING],
            "in the queue": [job for job in left if job.status == PENDING],
        }
        parts = [f"{what}: {names_of(found)}" for what, found in by_state.items() if found]
        ends = ", ".join(self._commands(left))
        return "; ".join(parts) + (f" (to end them: {ends})" if ends else "")

    def _commands(self, jobs: Sequence[Job]) -> list[str]:
        """Return the commands that end the attempts at these jobs, as far as they are known."""
        known = (self._queue.ids() or {}) if self._queue else {}
        ids = [known[self.open[job.number]] for job in jobs if self.open[job.number] in known]
        commands = [shell_line("scancel", *ids)] if ids else []
        for job in jobs:
            holder = read_holder(self._folder.job_lease(job))
            if holder and job.status == RUNNING and self.open[job.number] not in known:
                commands.append(f"kill {holder.pid} on {holder.host}")
        return commands


def refresh_job_statuses(folder: SweepFolder, manifest: Manifest, *, close: Close) -> Attempts:
    """Update the job statuses of a sweep that no process watches.

    Returns:
        The attempts; those that are still under way are in `open`.
    """
    attempts = Attempts(folder, manifest)
    for job in manifest.jobs:
        if job.number in attempts.open:
            attempts.look(job, may_start=False, close=close)
        elif job.status == RUNNING and not _ends(folder, job):
            job.status = KILLED
    return attempts


def _ends(folder: SweepFolder, job: Job) -> bool:
    """Return whether a worker that was told to end, or lost its sweep, has not ended yet."""
    return any(Watch(path).is_held() for path in (folder.job_lease(job), folder.run(job).lease))
