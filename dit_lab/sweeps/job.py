"""One job of a sweep within its own process: its task, and the results that it records."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from dit_lab.config.checks.metrics import why_unmeasured
from dit_lab.config.identity import recorded_hash
from dit_lab.config.objects import to_tree
from dit_lab.config.recorded import as_recorded, rebased
from dit_lab.config.schema import RunConfig
from dit_lab.core import trust
from dit_lab.core.errors import RequestError
from dit_lab.runs.folder import RunFolder, read_json, write_json
from dit_lab.runs.lock import Holder, read_holder
from dit_lab.runs.manifest import Job, SweepFolder
from dit_lab.runs.recorded import recorded_shapes
from dit_lab.sweeps.children import tags_of, track
from dit_lab.tracking.addresses import is_local


@dataclass(frozen=True, slots=True)
class Task:
    """A job with its config, and the tags that make its run a child of the sweep's run."""

    folder: Path
    job: Job
    run: RunFolder
    config: RunConfig
    tags: Mapping[str, str]


def read_task(folder: Path) -> Task:
    """Return the task of a job, given its folder in the sweep."""
    sweep = SweepFolder(folder.parents[1])
    manifest = sweep.read()
    job = manifest.jobs[int(folder.name.partition("-")[0])]
    tags = tags_of(sweep, manifest, job)
    trust.trust_own_store(sweep.paths_root)
    config, holder = job_config(sweep, job), read_holder(sweep.lease)
    tracking = config.tracking
    if tracking.backend == "mlflow" and is_local(tracking.uri) and not _is_here(holder):
        config = replace(
            config, tracking=replace(tracking, send="later")
        )  # only the sweep's machine writes to its database file
    return Task(folder, job, sweep.run(job), config, tags)


def job_config(sweep: SweepFolder, job: Job) -> RunConfig:
    """Return the config of a job as recorded in its folder, with `paths.root` of the sweep.

    Raises:
        RequestError: if it is no longer the config that the sweep was made with.
    """
    file = sweep.job_config(job)
    found = read_json(file)
    config = as_recorded(found, file, hooks=True)
    if recorded_hash(found) != job.config_hash:
        raise RequestError(
            f"{file}: differs from what job {job.number} was made with ({job.config_hash}); "
            "restore it, or start a new sweep"
        )
    return rebased(config, sweep.paths_root)


def _is_here(holder: Holder | None) -> bool:
    """Return whether the sweep runs on this machine, or nothing says that it runs elsewhere."""
    return holder is None or holder.is_here


def measure(
    task: Task, *, check_stop: Callable[[], None], on_message: Callable[[str], None]
) -> None:
    """Evaluate the trained weights as this job requests, and write result.json.

    An evaluation that was made during the training is reused.
    """
    keep_result(task, _evaluation(task, check_stop, on_message), on_message)


def keep_result(task: Task, name: str | None, on_message: Callable[[str], None]) -> None:
    """Write the evaluation's name to result.json, and log the job in MLflow."""
    tracking, run_id = task.config.tracking, None
    if tracking.backend == "mlflow" and tracking.send == "now":
        config = to_tree(task.config)
        run_id, trouble = track(task.run, task.job, config=config, tags=task.tags, evaluation=name)
        if trouble:
            on_message(f"MLflow could not be updated ({trouble}); {task.run.root} has all results")
    write_json(task.folder / "result.json", {"evaluation": name, "tracking_run_id": run_id})


def _evaluation(
    task: Task, check_stop: Callable[[], None], on_message: Callable[[str], None]
) -> str | None:
    """Return the name of the evaluation's file; None if the job evaluates nothing."""
    from dit_lab.actions.evaluate import evaluate_run  # imports torch: seconds
    from dit_lab.build.trained import load

    run, config = task.run, task.config
    if why_unmeasured(config, recorded_shapes(run)):
        return None
    trained = load(
        str(run.root),
        root=Path(config.paths.root),
        weights=config.sample.weights,
        codec_path=getattr(config.codec, "path", None),
    )
    evaluation, _ = evaluate_run(trained, config, check_stop=check_stop, on_message=on_message)
    return f"{evaluation.card.eval_hash}.json"
