"""Jobs that an earlier sweep has finished, which are reused without starting a process.

A sweep with one more size, seed or arm shares most of its jobs with the sweep before. A shared job
has the same run folder and requests the same evaluation. In case of doubt a process is started; it
does not train or evaluate anything twice either. Torch-free.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

from dit_lab.config.identity import (
    as_hashed,
    evaluating_code,
    evaluating_targets,
    source_of,
    targets_in,
)
from dit_lab.core.errors import RequestError
from dit_lab.evaluation.card import read_evaluation
from dit_lab.runs.folder import FINISHED, RunFolder, digest, read_status
from dit_lab.runs.manifest import Job, SweepFolder, all_sweeps
from dit_lab.runs.recorded import (
    MEASURING,
    deciding,
    difference,
    has_comparable_code,
    recorded,
)
from dit_lab.sweeps.job import keep_result, read_task

KNOWN_EXTRACTORS = {"pixels", "classifier"}
"""Extractors whose features depend on code and data alone, not on a file that may have changed."""


@dataclass(frozen=True, slots=True)
class Found:
    """The result of a job in an earlier sweep."""

    evaluation: str | None  # name of its file in the run folder
    source: str  # `job 3 of SWEEP`


def finished_before(folder: SweepFolder, jobs: Sequence[Job]) -> dict[int, Found]:
    """Return job number -> result, for the jobs that another sweep has finished."""
    runs = {job.run for job in jobs if is_finished(folder.run(job))}
    if not runs:
        return {}
    known: dict[tuple[str, str], tuple[Job, SweepFolder]] = {}
    for other in all_sweeps(folder.paths_root):
        if other.root.resolve() == folder.root.resolve():
            continue
        with suppress(RequestError):  # a damaged sweep does not stop this one
            for job in other.read().jobs:
                if job.status == FINISHED and job.run in runs:
                    known.setdefault((job.run, _request(other.read_config(job))), (job, other))
    code = _Code()
    found: dict[int, Found] = {}
    for job in jobs if known else ():
        with suppress(RequestError):
            config = folder.read_config(job)
            known_as = known.get((job.run, _request(config)))
            if known_as and (there := _there(folder.run(job), config, *known_as, code)):
                found[job.number] = there
    return found


def is_finished(run: RunFolder) -> bool:
    """Return whether a run is trained; False if its status cannot be read."""
    with suppress(RequestError):
        return read_status(run).get("status") == FINISHED
    return False


def _request(config: Mapping[str, Any]) -> str:
    """Return a hash that is equal for jobs that request the same evaluation."""
    hashed = as_hashed(config)
    return digest({group: hashed.get(group) for group in MEASURING})


class _Code:
    """Hashes of the current code that trains and evaluates given components, each computed once."""

    def __init__(self) -> None:
        self.deciding = cache(source_of)
        self.evaluating = cache(evaluating_code)


def _there(
    run: RunFolder, config: Mapping[str, Any], other: Job, sweep: SweepFolder, code: _Code
) -> Found | None:
    """Return the result of the other job; None if code or files may have changed since."""
    result, before = sweep.read_result(other), recorded(run)
    now = code.deciding(tuple(targets_in(deciding(config))))
    if not result or not has_comparable_code(before) or difference(before, now):
        return None
    if config["sample"]["weights"].startswith("power"):  # a newer average of that width may exist
        return None
    found = Found(result["evaluation"], f"job {other.number} of {sweep.root.name}")
    if found.evaluation is None:
        return found
    card = read_evaluation(run.evaluations / found.evaluation).card
    files = any(options.get("reference") for options in config["metric"].values())
    certain = (
        not files
        and set(card.features) <= KNOWN_EXTRACTORS
        and card.step == read_status(run)["step"]
        and card.code.get("evaluated") == code.evaluating(tuple(evaluating_targets(config)))
    )
    return found if certain else None


def settle(
    folder: SweepFolder, job: Job, found: Found, *, on_message: Callable[[str], None]
) -> None:
    """Write the files that a process of the job would have written."""
    task = read_task(folder.job(job))
    folder.job_output(job).write_text(f"already finished: {found.source}\n", encoding="utf-8")
    keep_result(task, found.evaluation, on_message)
