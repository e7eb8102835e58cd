"""Jobs that an earlier sweep has finished: they are taken as they are, without a process.

A sweep with one more size, seed or arm has most of its jobs in common with the one before. Such a
job has the run folder of the other one, and asks for the same evaluation. What is not certain here
is left to a process, which trains and measures nothing twice either. Torch-free.
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
"""Those whose features code and data decide, and no file that could be another one now."""


@dataclass(frozen=True, slots=True)
class Found:
    """What an earlier sweep has of a job."""

    evaluation: str | None  # the name of its file in the run folder
    source: str  # `job 3 of SWEEP`


def finished_before(folder: SweepFolder, jobs: Sequence[Job]) -> dict[int, Found]:
    """Number -> what there is of those jobs that another sweep has finished."""
    runs = {job.run for job in jobs if is_finished(folder.run(job))}
    if not runs:
        return {}
    known: dict[tuple[str, str], tuple[Job, SweepFolder]] = {}
    for other in all_sweeps(folder.paths_root):
        if other.root.resolve() == folder.root.resolve():
            continue
        with suppress(RequestError):  # another sweep's damage is no reason to stop this one
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
    """Whether it is trained, as far as is known."""
    with suppress(RequestError):
        return read_status(run).get("status") == FINISHED
    return False


def _request(config: Mapping[str, Any]) -> str:
    """Equal for jobs that ask for the same evaluation."""
    hashed = as_hashed(config)
    return digest({group: hashed.get(group) for group in MEASURING})


class _Code:
    """What the code is now that makes and measures runs of some components, each found once."""

    def __init__(self) -> None:
        self.deciding = cache(source_of)
        self.evaluating = cache(evaluating_code)


def _there(
    run: RunFolder, config: Mapping[str, Any], other: Job, sweep: SweepFolder, code: _Code
) -> Found | None:
    """What the other job found, where code and files are certain to be what they were."""
    result, before = sweep.read_result(other), recorded(run)
    now = code.deciding(tuple(targets_in(deciding(config))))
    if not result or not has_comparable_code(before) or difference(before, now):
        return None
    if config["sample"]["weights"].startswith("power"):  # the newest average of that width
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
    """Write what a process of the job would have left behind."""
    task = read_task(folder.job(job))
    folder.job_output(job).write_text(f"already finished: {found.source}\n", encoding="utf-8")
    keep_result(task, found.evaluation, on_message)
