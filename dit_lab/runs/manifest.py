"""The sweep folder: its manifest, its jobs and their state.

    sweeps/<name>-<date>-<6 hex>/
        manifest.json  lease  report/
        jobs/<number>-<config hash>/  config.json  output.log  result.json  run (a link)
                                      lease  attempts/<id>.json

manifest.json holds the request and how each job ended; only the sweep's process writes it. The
progress of a job is in its run folder, its result in result.json. `lease` and `attempts/` of a job
belong to workers that may outlive the sweep's process (`sweeps/attempts.py`).
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
    """Check that a path relative to `paths.root` is that of a run folder."""
    return "" if path.startswith("runs/") else "a folder below runs/"


@dataclass(slots=True, kw_only=True)
class Job:
    """One job of a sweep."""

    number: Count
    overrides: list[str]  # its value on each axis of the sweep
    config_hash: Hash
    # its run folder relative to paths.root; jobs with the same train hash share it
    run: Annotated[PathBelow, run_path]
    status: State = PENDING
    attempts: Count = 0
    # the id of the running attempt, if its worker may outlive the sweep's process
    attempt: AttemptId | None = None
    seconds: Duration = 0.0  # of all attempts
    error: str | None = None
    run_id: str | None = None  # in the tracker
    value: float | None = None  # of the metric that the search optimises

    @property
    def label(self) -> str:
        """The name of its folder in the sweep, such as `03-1a2b3c4d5e6f`."""
        return f"{self.number:02d}-{self.config_hash}"


class Settings(TypedDict):
    """The config's `sweep` section, the overrides of a Hydra launcher, and whether it searches."""

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
"""A named arm: the arm that it derives from (or None), and its overrides of that arm."""


class Result(TypedDict):
    """result.json of a job."""

    evaluation: FileName | None  # file in the run's evaluations folder
    tracking_run_id: str | None


class Attempt(TypedDict):
    """attempts/<id>.json of a job; `code` and `seconds` are written when the attempt has ended."""

    started: Seconds
    code: NotRequired[Annotated[int, within(-255, 255)]]
    seconds: NotRequired[Duration]


def are_in_order(jobs: Sequence[Job]) -> str:
    """Check that jobs are numbered consecutively from 0."""
    good = [job.number for job in jobs] == list(range(len(jobs)))
    return "" if good else "jobs numbered from 0 on"


@dataclass(slots=True, kw_only=True)
class Manifest:
    """manifest.json: the definition of a sweep and the state of its jobs."""

    name: FileName
    typed: list[str]  # the overrides of the command
    config_dirs: list[str]
    identity: Hash  # of the request; the same command resumes the sweep
    axes: dict[str, list[str]]
    arms: dict[str, Arm] = field(default_factory=dict)  # by name, the values of the axis `arm`
    settings: dict[str, Any]  # validated as Settings
    tracking: dict[str, Any]  # validated as Tracking
    jobs: Annotated[list[Job], are_in_order]
    status: State = RUNNING
    created: Seconds = field(default_factory=time.time)
    rounds: Count = 0  # number of times that jobs were submitted to a Hydra launcher
    parent_run_id: str | None = None

    @property
    def attempted(self) -> bool:
        """Whether any job was ever started."""
        return any(job.attempts or job.attempt for job in self.jobs)

    @property
    def unmade(self) -> int:
        """The number of trials of a search that have not been proposed yet."""
        wanted = self.settings["trials"] if self.settings["search"] else 0
        return max(0, wanted - len(self.jobs))

    def counts(self) -> dict[str, int]:
        """Return the number of jobs by status, without zeros."""
        found = Counter(job.status for job in self.jobs)
        return {status: found[status] for status in STATUSES if found[status]}


@dataclass(frozen=True, slots=True)
class SweepFolder:
    """Paths of the files of one sweep. Creating the object reads and writes nothing."""

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
        """Return the shell command `dit-lab sweep ACTION FOLDER` for this sweep."""
        return shell_line("dit-lab", "sweep", action, self.root)

    def run(self, job: Job) -> RunFolder:
        return RunFolder(self.paths_root / job.run)

    def job(self, job: Job) -> Path:
        return self.root / "jobs" / job.label

    def job_config(self, job: Job) -> Path:
        return self.job(job) / "config.json"

    def read_config(self, job: Job) -> dict[str, Any]:
        """Return the config of a job as the sweep composed it. Raises RequestError."""
        file = self.job_config(job)
        return with_names_of_today(read_as(Config, read_json(file), where=file))

    def job_output(self, job: Job) -> Path:
        return self.job(job) / "output.log"

    def job_result(self, job: Job) -> Path:
        return self.job(job) / "result.json"

    def read_result(self, job: Job) -> dict[str, Any]:
        """Return the result of a job, or {} if there is none yet. Raises RequestError."""
        found = read_json(self.job_result(job))
        return dict(read_as(Result, found, where=self.job_result(job))) if found else {}

    def job_lease(self, job: Job) -> Path:
        """Return the lease that the worker of an attempt holds."""
        return self.job(job) / "lease"

    def attempt(self, job: Job, attempt: str) -> Path:
        """Return the file where the worker of an attempt records its start and end."""
        return self.job(job) / "attempts" / f"{attempt}.json"

    def read_attempt(self, job: Job, attempt: str) -> dict[str, Any]:
        """Return the record of an attempt, or {} before it has started. Raises RequestError."""
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
        """Create the folder of a job."""
        self.job(job).mkdir(parents=True)
        self.job_config(job).write_text(to_json(config, indent=1), encoding="utf-8")
        (self.job(job) / "run").symlink_to(Path("../../../..") / job.run)

    def write(self, manifest: Manifest) -> None:
        jobs = [_plain(job) for job in manifest.jobs]
        write_json(self.manifest, {**_plain(manifest), "jobs": jobs})

    def read(self) -> Manifest:
        """Return the manifest. Raises RequestError if there is none or it is damaged."""
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
    """Return `job 3`, `jobs 0, 2 and 5`, or `jobs 0 to 7` for consecutive numbers."""
    numbers = [job.number for job in jobs]
    if len(numbers) == 1:
        return f"job {numbers[0]}"
    if len(numbers) > 2 and numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"jobs {numbers[0]} to {numbers[-1]}"
    return f"jobs {', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"


def _plain(record: Manifest | Job) -> dict[str, Any]:
    """Return the fields without the deep copy of `asdict`, which is slow for a thousand jobs."""
    return {one.name: getattr(record, one.name) for one in fields(record)}


def new_sweep(root: Path, manifest: Manifest, configs: Iterable[Mapping[str, Any]]) -> SweepFolder:
    """Create the folder of a sweep below `paths.root`, with the config of each job.

    A random suffix separates sweeps that start in the same second.
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
    """Return every sweep below `paths.root`, newest first."""
    found = root.glob("sweeps/*/manifest.json")
    newest = sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)
    return [SweepFolder(path.parent) for path in newest]


def find_sweep(given: str, *, root: Path) -> SweepFolder:
    """Return the sweep that `given` names.

    Args:
        given: as for `sweep_at`, or the `sweep.name` of one sweep.
        root: `paths.root`.

    Raises:
        RequestError: there is no such sweep, or several have this name.
    """
    if folder := sweep_at(given, root=root) or sweep_called(given, root=root):
        return folder
    known = [folder.root.name for folder in all_sweeps(root)[:3]]
    have = f"the newest are {', '.join(known)}" if known else "there is none yet"
    raise RequestError(f"{given}: no sweep; give a folder below {root / 'sweeps'} ({have})")


def sweep_at(given: str, *, root: Path) -> SweepFolder | None:
    """Return the sweep with this folder, folder name below `<paths.root>/sweeps` or tracker id."""
    for path in (local_path(given, ""), root / "sweeps" / given):
        try:
            is_sweep = (path / "manifest.json").is_file()
        except PermissionError as error:
            raise Denied(f"{given}: {denied(Path(error.filename))}") from None
        if is_sweep:
            return SweepFolder(path.resolve())
    return next(iter(_sweeps_where("parent_run_id", given, root)), None)


def sweep_called(given: str, *, root: Path) -> SweepFolder | None:
    """Return the only sweep with this `sweep.name`. Raises RequestError if there are several."""
    found = _sweeps_where("name", given, root)
    if len(found) > 1:
        names = ", ".join(folder.root.name for folder in found)
        raise RequestError(f"{given}: {len(found)} sweeps have this name; give one of {names}")
    return found[0] if found else None


def _sweeps_where(key: str, value: str, root: Path) -> list[SweepFolder]:
    found = []
    for folder in all_sweeps(root):
        with suppress(RequestError):  # a damaged manifest matches nothing
            if read_json(folder.manifest).get(key) == value:
                found.append(SweepFolder(folder.root.resolve()))
    return found
