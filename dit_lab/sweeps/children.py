"""The MLflow run of a job, a child of the sweep's run, wherever the job was trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dit_lab.config.axes import settings_of
from dit_lab.config.yaml_files import read_config
from dit_lab.core.text import shell_line
from dit_lab.evaluation.card import read_evaluation
from dit_lab.evaluation.table import is_row_key
from dit_lab.runs.folder import FINISHED, RunFolder, read_status, read_tracked
from dit_lab.runs.manifest import Job, Manifest, SweepFolder
from dit_lab.runs.metrics import MetricsRow, read_metrics
from dit_lab.runs.recorded import MEASURING
from dit_lab.tracking.parent import JOB_TAG, PARENT_TAG, attach_to_parent, log_child, member_tags

OF_A_SWEEP = (PARENT_TAG, JOB_TAG, "dit_lab.sweep", "dit_lab.arm")


def tags_of(sweep: SweepFolder, manifest: Manifest, job: Job) -> dict[str, str]:
    """Return the tags that make the run of a job a child of the sweep's run.

    The parent's id is missing until MLflow has the sweep's run.
    """
    tags = {"dit_lab.sweep": sweep.root.name, JOB_TAG: str(job.number)}
    if (arm := settings_of(job.overrides).get("arm")) is not None:
        tags["dit_lab.arm"] = arm
    if manifest.parent_run_id:
        tags[PARENT_TAG] = manifest.parent_run_id
    return tags


def command_of(manifest: Manifest) -> str:
    """Return the command that makes the sweep."""
    return shell_line("dit-lab", "train", "-m", *manifest.typed)


def track(
    run: RunFolder,
    job: Job,
    *,
    config: Mapping[str, Any],
    tags: Mapping[str, str],
    evaluation: str | None,
    status: str = FINISHED,
) -> tuple[str | None, str]:
    """Make the run of a job a child of the sweep's run.

    It is the run of the training, or a new run if the training belongs to another sweep or job or
    was evaluated differently. Nothing is done while the sweep or the training is unknown to MLflow;
    this is called again when the sweep ends.

    Args:
        config: the config of the job, as plain values.
        tags: `tags_of` the job.
        evaluation: the name of the evaluation's file in the run folder.

    Returns:
        The id of the run, or None, and why MLflow could not be updated, or "".
    """
    if PARENT_TAG not in tags:
        return None, ""
    uri, trained_by = config["tracking"]["uri"], read_config(run)
    run_id = read_status(run).get("tracking_run_id")
    if run_id is None and read_tracked(run):
        return None, ""
    same = all(config[key] == trained_by.get(key) for key in MEASURING)
    if run_id is not None and same:
        is_child, trouble = attach_to_parent(uri, run_id, tags=tags)
        if is_child or trouble:
            return run_id, trouble
    measured = run.evaluations / evaluation if evaluation else None
    return log_child(
        uri,
        experiment=config["tracking"]["experiment"],
        artifact_root=Path(config["paths"]["root"]) / "mlartifacts",
        config=config,
        tags={
            **_described(run),
            **config.get("tags", {}),
            **tags,
            **member_tags(config["choices"]),
            **({"dit_lab.trained_in_run": run_id} if run_id else {}),
            "dit_lab.overrides": " ".join(job.overrides),
            "dit_lab.run_folder": str(run.root),
        },
        known_by=JOB_TAG,
        folder=run,
        rows=[*last_rows(run, of_samples=same), *([_row(measured)] if measured else [])],
        artifacts=[measured] if measured else [],
        status=status,
        note=config.get("note") or "",
    )


def _described(run: RunFolder) -> dict[str, str]:
    """Return the tags that were recorded for the training, without those of its sweep."""
    told: Mapping[str, str] = read_tracked(run).get("tags", {})
    return {key: text for key, text in told.items() if key not in OF_A_SWEEP}


def last_rows(run: RunFolder, *, of_samples: bool) -> list[MetricsRow]:
    """Return the last value of each metric of a training, without system metrics.

    Metrics of its samples are left out unless `of_samples`.
    """
    newest: dict[str, tuple[MetricsRow, float]] = {}
    for row in read_metrics(run.metrics):
        for name, value in row.metrics.items():
            if (of_samples or not is_row_key(name)) and not name.startswith("system/"):
                newest[name] = row, value
    return [
        MetricsRow(step=row.step, seconds=row.seconds, metrics={name: value})
        for name, (row, value) in newest.items()
    ]


def _row(measured: Path) -> MetricsRow:
    """Return the metrics of an evaluation, with the time of the measurement."""
    found = read_evaluation(measured)
    when = measured.stat().st_mtime
    return MetricsRow(step=found.card.step, seconds=when, metrics=dict(found.metrics))
