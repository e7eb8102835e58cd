"""Display of a sweep in the terminal: a table with a row for each job, live while it runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from dit_lab.config.axes import settings_of
from dit_lab.core.errors import RequestError
from dit_lab.core.text import say
from dit_lab.core.typed import read_as
from dit_lab.report.metrics import loss_of_run
from dit_lab.report.selection import settings_of_jobs
from dit_lab.runs.folder import FAILED, FINISHED, KILLED, RUNNING, RunFolder, read_json, read_status
from dit_lab.runs.manifest import PENDING, Job, Manifest, SweepFolder
from dit_lab.runs.metrics import last_metrics
from dit_lab.runs.records import Config
from dit_lab.sweeps.run import read_current_state
from dit_lab.tracking.console import duration
from dit_lab.tracking.screen import LONGEST_LINE, Screen, styled, table

COLOURS = {FINISHED: "green", FAILED: "red", KILLED: "yellow", RUNNING: "cyan", PENDING: "dim"}
QUIET_SECONDS = 10  # after which the progress of a started job is reported once
ROWS_AROUND = 8  # lines of the terminal that a live table does not use for jobs


def print_status(folder: SweepFolder) -> None:
    """Print every job of a sweep, and the number of jobs by status."""
    manifest = read_current_state(folder)
    console = Screen(width=None if sys.stdout.isatty() else LONGEST_LINE)
    console.print(_table(folder, manifest, manifest.jobs))
    console.print(_counts(manifest))


@contextmanager
def watching(folder: SweepFolder) -> Iterator[Watcher]:
    """Give a live table if standard output is a terminal, or else a printer of lines."""
    if not sys.stdout.isatty():
        yield Watcher(folder)
        return
    with Live(
        console=Screen(width=None, soft_wrap=False), auto_refresh=False, transient=True
    ) as live:
        yield LiveTable(folder, live)


class Watcher:
    """Prints a line when a job starts, makes its first progress, and ends; for files and pipes."""

    def __init__(self, folder: SweepFolder) -> None:
        self._folder = folder
        self._started: dict[int, float] = {}  # start times of jobs without progress so far

    def on_message(self, text: str) -> None:
        say(text)

    def on_job_start(self, job: Job) -> None:
        self._started[job.number] = time.monotonic()
        self.on_message(f"job {job.number} ({' '.join(job.overrides)}): started")

    def on_job_end(self, manifest: Manifest, job: Job) -> None:
        self._started.pop(job.number, None)
        done = sum(other.status not in (PENDING, RUNNING) for other in manifest.jobs)
        total = len(manifest.jobs) + manifest.unmade
        what = f"job {job.number} ({' '.join(job.overrides)}): {job.status}"
        why = f", {job.error}" if job.error else ""
        self.on_message(f"{what} after {duration(job.seconds)}{why} ({done}/{total})")

    def on_look(self, manifest: Manifest) -> None:
        now = time.monotonic()
        for number, since in list(self._started.items()):
            if now - since < QUIET_SECONDS:
                continue
            status: dict[str, Any] = {}
            with suppress(RequestError):  # the job itself reports a damaged status
                status = read_status(self._folder.run(manifest.jobs[number]))
            if status.get("step"):
                del self._started[number]
                done = f"step {status['step']:,} of {status.get('total_steps', 0):,}"
                self.on_message(f"job {number}: {done} after {duration(now - since)}")


class LiveTable(Watcher):
    """A live table at the bottom of the terminal, at most as high as the terminal."""

    def __init__(self, folder: SweepFolder, live: Live) -> None:
        super().__init__(folder)
        self._live = live

    def on_message(self, text: str) -> None:
        self._live.console.print(text, soft_wrap=True)

    def on_job_start(self, job: Job) -> None:
        return None

    def on_look(self, manifest: Manifest) -> None:
        self._live.update(self._picture(manifest), refresh=True)

    def _picture(self, manifest: Manifest) -> RenderableType:
        room = max(3, self._live.console.height - ROWS_AROUND)
        order = {RUNNING: 0, FAILED: 1, KILLED: 2, PENDING: 3, FINISHED: 4}
        shown = sorted(manifest.jobs, key=lambda job: order[job.status])[:room]
        shown.sort(key=lambda job: job.number)
        return Group(_table(self._folder, manifest, shown), _counts(manifest))


def _table(folder: SweepFolder, manifest: Manifest, jobs: Sequence[Job]) -> Table:
    rows: list[tuple[str | Text, ...]] = []
    settings = settings_of_jobs(manifest.jobs)
    axes = settings[0] if settings else manifest.axes
    losses = ["train loss"] if _comparable_losses(folder, manifest) else []
    headings = ("job", *axes, "status", "step", *losses, "time", "remark")
    for job in jobs:
        values = settings[job.number].values()
        step, loss, time = _progress(job, folder.run(job))
        status, loss_cell = styled(job.status, COLOURS[job.status]), [loss] if losses else []
        rows.append((str(job.number), *values, status, step, *loss_cell, time, job.error or ""))
    left = [heading not in ("job", "step", "train loss") for heading in headings]
    return table(headings, rows, left=left, wrap=True)


def _comparable_losses(folder: SweepFolder, manifest: Manifest) -> bool:
    """Return whether all jobs have the same loss; otherwise there is no column for it."""
    losses = {_loss(folder.job_config(job), tuple(job.overrides)) for job in manifest.jobs}
    return len(losses) <= 1


@cache
def _loss(file: Path, overrides: tuple[str, ...]) -> str:
    """Return the loss of a job; cached, since a live table needs it every second."""
    try:
        return loss_of_run(read_as(Config, read_json(file), where=file), settings_of(overrides))
    except RequestError:  # the job reports a damaged config when it runs
        return ""


def _progress(job: Job, run: RunFolder) -> tuple[str, str, str]:
    """Return step, last training loss, and duration or time left of a job."""
    status = read_status(run) if job.attempts or job.status == FINISHED else {}
    if "step" not in status:
        return "", "", ""
    last = last_metrics(run.metrics)
    loss = f"{last['train/loss']:.4f}" if "train/loss" in last else ""
    took = duration(job.seconds)
    if job.status == RUNNING:
        left = last.get("perf/seconds_left")
        took = f"{duration(left)} left" if left is not None else ""
    return f"{status['step']:,}", loss, took


def _counts(manifest: Manifest) -> Text:
    counts = manifest.counts()
    return styled(", ").join(styled(f"{n} {name}", COLOURS[name]) for name, n in counts.items())
