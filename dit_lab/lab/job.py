"""One job of a sweep, seen from within its process: what it is, and what it leaves behind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dit_lab.lab.config import read_yaml
from dit_lab.runs import RunFolder, read_json, write_json
from dit_lab.sweeps.manifest import Job, SweepFolder
from dit_lab.tracking.parent import PARENT_TAG, adopt, log_measured

MEASURING = ("sampler", "guidance", "sample", "evaluation")
"""What decides how weights are measured, and not what they are."""


@dataclass(frozen=True, slots=True)
class Task:
    """A job with its configuration, and the tags that make its run a child of the sweep's."""

    folder: Path
    job: Job
    run: RunFolder
    config: dict[str, Any]
    tags: Mapping[str, str]


def read_task(folder: Path) -> Task:
    """The job whose folder in the sweep this is."""
    sweep = SweepFolder(folder.parents[1])
    manifest = sweep.read()
    job = manifest.jobs[int(folder.name.partition("-")[0])]
    tags = {"dit_lab.sweep": sweep.root.name, "dit_lab.job": str(job.number)}
    if manifest.parent_run_id:
        tags[PARENT_TAG] = manifest.parent_run_id
    return Task(folder, job, sweep.run(job), read_json(sweep.job_config(job)), tags)


def measure(
    task: Task, *, check_stop: Callable[[], None], on_message: Callable[[str], None]
) -> None:
    """Measure the trained weights as this job asks, and record what it leaves in result.json.

    What was measured while they were trained is taken as it is. Weights that another job has
    trained get a child run of their own in the tracker.
    """
    run, config = task.run, task.config
    measured = _evaluation(run, config, check_stop, on_message)
    run_id, trouble = read_json(run.status).get("tracking_run_id"), ""
    if config["tracking"]["backend"] == "mlflow":
        trained_by = read_yaml(run.config)
        if all(config[key] == trained_by[key] for key in MEASURING):
            trouble = adopt(config["tracking"]["uri"], run_id, tags=task.tags) if run_id else ""
        elif measured:
            run_id, trouble = _child(task, measured)
    if trouble:
        on_message(f"MLflow did not take it ({trouble}); {run.root} has everything")
    name = measured.name if measured else None
    write_json(task.folder / "result.json", {"evaluation": name, "tracking_run_id": run_id})


def _evaluation(
    run: RunFolder,
    config: Mapping[str, Any],
    check_stop: Callable[[], None],
    on_message: Callable[[str], None],
) -> Path | None:
    """The file with what was measured; None where there are too few images to measure."""
    from dit_lab.lab.evaluate import evaluate_run, why_unmeasured  # torch: seconds
    from dit_lab.lab.identity import recorded_shapes
    from dit_lab.lab.trained import load

    if why_unmeasured(config, recorded_shapes(run)):
        return None
    trained = load(
        str(run.root),
        root=Path(config["paths"]["root"]),
        weights=config["sample"]["weights"],
        trusted_modules=config["trusted_modules"],
        codec_path=config["codec"].get("path"),
    )
    evaluation, _ = evaluate_run(trained, config, check_stop=check_stop, on_message=on_message)
    return run.evaluations / f"{evaluation.card.eval_hash}.json"


def _child(task: Task, measured: Path) -> tuple[str | None, str]:
    from dit_lab.evaluation.card import read_evaluation

    config, evaluation = task.config, read_evaluation(measured)
    return log_measured(
        config["tracking"]["uri"],
        experiment=config["tracking"]["experiment"],
        artifact_root=Path(config["paths"]["root"]) / "mlartifacts",
        name=f"{config['name']}-{task.job.config_hash}",
        config=config,
        tags={**task.tags, "dit_lab.run_folder": str(task.run.root)},
        metrics=evaluation.metrics,
        step=evaluation.card.step,
        artifact=measured,
    )
