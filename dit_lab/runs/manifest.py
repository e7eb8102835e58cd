"""A sweep on disk: its jobs in order, what each of them is, and how far it has come.

    sweeps/<name>-<date>-<6 hex>/
        manifest.json  lease  report/
        jobs/<number>-<config hash>/  config.json  output.log  result.json  run (a link)
                                      lease  attempts/<id>.json

The manifest says what was asked for and how each job ended; the sweep alone writes it. What a job
is doing now stands in its run folder, what it found in its result.json. The last two are of workers
that may outlive the sweep's process (`sweeps/attempts.py`).
"""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict

from dit_lab.core.errors import RequestError
from dit_lab.core.files import Denied, denied, to_json
from dit_lab.core.text import checked_name, local_path, shell_line
from dit_lab.core.typed import (
    Count,
    Duration,
    FileName,
    Hash,
    Kind,
    PathBelow,
    Seconds,
    read_as,
    spelled,
    within,
)
from dit_lab.runs.folder import FAILED, FINISHED, KILLED, RUNNING, RunFolder, read_json, write_json
from dit_lab.runs.former_names import with_names_of_today
from dit_lab.runs.records import Config, Tracking

PENDING = "PENDING"
STATUSES = (FINISHED, FAILED, KILLED, RUNNING, PENDING)
State = Annotated[str, spelled("|".join(STATUSES), f"one of {', '.join(STATUSES)}")]
MOST_JOBS = 10**6


AttemptId = Annotated[str, spelled(r"\d{1,9}\.\d{1,9}", "a round and a place in it, such as 2.0")]


def run_path(path: str) -> str:
    """Whether it is a run folder, seen from paths.root."""
    return "" if path.startswith("runs/") else "a folder below runs/"


@dataclass(slots=True, kw_only=True)
class Job:
    """One point of a sweep."""

    number: Count
    overrides: list[str]  # what tells it from the others, an axis each
    config_hash: Hash
    # its run folder below paths.root, shared by jobs that train the same weights
    run: Annotated[PathBelow, run_path]
    status: State = PENDING
    attempts: Count = 0
    # the id of the one under way, where its worker may outlive the sweep's process
    attempt: AttemptId | None = None
    seconds: Duration = 0.0  # of all attempts
    error: str | None = None
    run_id: str | None = None  # in the tracker
    value: float | None = None  # of the metric that a search goes by

    @property
    def label(self) -> str:
        """`3-1a2b3c4d5e6f`: the name of its folder in the sweep."""
        return f"{self.number:02d}-{self.config_hash}"


class Settings(TypedDict):
    """The configuration's `sweep`, `launcher` (for Hydra's) and `search`."""

    slots: str | list[str | int]
    jobs_per_slot: Annotated[int, within(1, MOST_JOBS)]
    on_failure: Literal["continue", "stop"]
    retries: Annotated[int, within(0, MOST_JOBS)]
    trials: Annotated[int, within(1, MOST_JOBS)]
    trials_at_once: Annotated[int, within(1, MOST_JOBS)] | None
    metric: str | None
    failed_value: float | None
    launcher: list[str]
    search: bool


Arm = TypedDict("Arm", {"from": str | None, "overrides": list[str]})
"""What a named arm stands on, another arm or nothing, and what it changes there."""


class Result(TypedDict):
    """result.json of a job."""

    evaluation: FileName | None  # of its run
    tracking_run_id: str | None


class Attempt(TypedDict):
    """attempts/<id>.json of a job: how one ended, once it has."""

    started: Seconds
    code: NotRequired[Annotated[int, within(-255, 255)]]
    seconds: NotRequired[Duration]


def are_in_order(jobs: Sequence[Job]) -> str:
    """Whether each job has the number of its place."""
    good = [job.number for job in jobs] == list(range(len(jobs)))
    return "" if good else "jobs numbered from 0 on"


@dataclass(slots=True, kw_only=True)
class Manifest:
    """What a sweep is, and what became of its jobs."""

    name: FileName
    typed: list[str]  # the overrides of the command
    config_dirs: list[str]
    identity: Hash  # of what it was asked for
    axes: dict[str, list[str]]
    arms: dict[str, Arm] = field(default_factory=dict)  # by name: the values of the axis `arm`
    settings: dict[str, Any]  # Settings
    tracking: dict[str, Any]  # Tracking
    jobs: Annotated[list[Job], are_in_order]
    status: State = RUNNING
    created: Seconds = field(default_factory=time.time)
    rounds: Count = 0  # how often jobs were given to a launcher of Hydra's
    parent_run_id: str | None = None

    @property
    def attempted(self) -> bool:
        """Whether any job was started before."""
        return any(job.attempts or job.attempt for job in self.jobs)

    @property
    def unmade(self) -> int:
        """How many jobs of a search are still to be proposed."""
        wanted = self.settings["trials"] if self.settings["search"] else 0
        return max(0, wanted - len(self.jobs))

    def counts(self) -> dict[str, int]:
        """Status -> number of jobs, those without any left out."""
        found = Counter(job.status for job in self.jobs)
        return {status: found[status] for status in STATUSES if found[status]}


@dataclass(frozen=True, slots=True)
class SweepFolder:
    """Where a sweep lies. Creating the object touches nothing."""

    root: Path

    @property
    def manifest(self) -> Path:
        return self.root / "manifest.json"

    @property
    def lease(self) -> Path:
        return self.root / "lease"

    @property
    def paths_root(self) -> Path:
        return self.root.parents[1]

    def command(self, action: str) -> str:
        """`dit-lab sweep ACTION` of this sweep, as it can be pasted into a shell."""
        return shell_line("dit-lab", "sweep", action, self.root)

    def run(self, job: Job) -> RunFolder:
        return RunFolder(self.paths_root / job.run)

    def job(self, job: Job) -> Path:
        return self.root / "jobs" / job.label

    def job_config(self, job: Job) -> Path:
        return self.job(job) / "config.json"

    def read_config(self, job: Job) -> dict[str, Any]:
        """The configuration of a job, which the sweep composed. Raises RequestError."""
        file = self.job_config(job)
        return with_names_of_today(read_as(Config, read_json(file), where=file))

    def job_output(self, job: Job) -> Path:
        return self.job(job) / "output.log"

    def job_result(self, job: Job) -> Path:
        return self.job(job) / "result.json"

    def read_result(self, job: Job) -> dict[str, Any]:
        """What a job has found; {} where it has not. Raises RequestError."""
        found = read_json(self.job_result(job))
        return dict(read_as(Result, found, where=self.job_result(job))) if found else {}

    def job_lease(self, job: Job) -> Path:
        """Held by the worker of an attempt."""
        return self.job(job) / "lease"

    def attempt(self, job: Job, attempt: str) -> Path:
        """Where the worker of an attempt says that it was started, and how it ended."""
        return self.job(job) / "attempts" / f"{attempt}.json"

    def read_attempt(self, job: Job, attempt: str) -> dict[str, Any]:
        """The same, {} before it was started. Raises RequestError."""
        file = self.attempt(job, attempt)
        found = read_json(file)
        return dict(read_as(Attempt, found, where=file)) if found else {}

    @property
    def launcher_log(self) -> Path:
        return self.root / "launcher.log"

    @property
    def report(self) -> Path:
        return self.root / "report"

    def add(self, job: Job, config: Mapping[str, Any]) -> None:
        """Make the folder of a job."""
        self.job(job).mkdir(parents=True)
        self.job_config(job).write_text(to_json(config, indent=1), encoding="utf-8")
        (self.job(job) / "run").symlink_to(Path("../../../..") / job.run)

    def write(self, manifest: Manifest) -> None:
        jobs = [_plain(job) for job in manifest.jobs]
        write_json(self.manifest, {**_plain(manifest), "jobs": jobs})

    def read(self) -> Manifest:
        """The manifest; RequestError where there is none or it is damaged."""
        content = read_json(self.manifest)
        if not content:
            raise RequestError(f"{self.root}: no sweep lies here (no {self.manifest.name})")

        def known(kind: type[Kind], values: Any) -> Kind:
            return read_as(kind, values, where=self.manifest, instead="nothing of it is known")

        manifest = known(Manifest, content)
        manifest.settings = dict(known(Settings, manifest.settings))
        manifest.tracking = dict(known(Tracking, manifest.tracking))
        return manifest


def names_of(jobs: Sequence[Job]) -> str:
    """`job 3`, `jobs 0, 2 and 5`, and `jobs 0 to 7` for all from one to another."""
    numbers = [job.number for job in jobs]
    if len(numbers) == 1:
        return f"job {numbers[0]}"
    if len(numbers) > 2 and numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"jobs {numbers[0]} to {numbers[-1]}"
    return f"jobs {', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"


def _plain(record: Manifest | Job) -> dict[str, Any]:
    """Its fields, not copied: of a thousand jobs, twice for each, that would take a while."""
    return {one.name: getattr(record, one.name) for one in fields(record)}


def new_sweep(root: Path, manifest: Manifest, configs: Iterable[Mapping[str, Any]]) -> SweepFolder:
    """Make the folder of a sweep below `paths.root`, with the configuration of each job.

    Sweeps that are started in the same second get folders of their own.
    """
    stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(manifest.created))
    name = checked_name("sweep.name", manifest.name)
    folder = SweepFolder(root / "sweeps" / f"{name}-{stamp}-{secrets.token_hex(3)}")
    (folder.root / "jobs").mkdir(parents=True)
    for job, config in zip(manifest.jobs, configs, strict=True):
        folder.add(job, config)
    folder.write(manifest)
    return folder


def all_sweeps(root: Path) -> list[SweepFolder]:
    """Every sweep below `paths.root`, the newest first."""
    found = root.glob("sweeps/*/manifest.json")
    newest = sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)
    return [SweepFolder(path.parent) for path in newest]


def find_sweep(given: str, *, root: Path) -> SweepFolder:
    """What a user calls a sweep: its folder, its name below `<paths.root>/sweeps`, or the id of its
    run in the tracker. Raises RequestError."""
    for path in (local_path(given, ""), root / "sweeps" / given):
        try:
            is_sweep = (path / "manifest.json").is_file()
        except PermissionError as error:
            raise Denied(f"{given}: {denied(Path(error.filename))}") from None
        if is_sweep:
            return SweepFolder(path.resolve())
    for folder in all_sweeps(root):
        with suppress(RequestError):  # a damaged one is another sweep, as far as is known
            if read_json(folder.manifest).get("parent_run_id") == given:
                return SweepFolder(folder.root.resolve())
    known = [folder.root.name for folder in all_sweeps(root)[:3]]
    have = f"the newest are {', '.join(known)}" if known else "there is none yet"
    raise RequestError(f"{given}: no sweep; give a folder below {root / 'sweeps'} ({have})")
