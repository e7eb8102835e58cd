"""The parent run of a sweep in MLflow: created before the jobs, ended after them."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dit_lab.core.errors import RequestError
from dit_lab.core.typed import read_as
from dit_lab.runs.folder import FINISHED, RUNNING, RunFolder, read_json
from dit_lab.runs.manifest import STATUSES
from dit_lab.runs.metrics import MetricsRow
from dit_lab.runs.records import SUMMARY, Summary
from dit_lab.tracking.inputs import log_data
from dit_lab.tracking.mlflow_store import (
    all_pages,
    as_params,
    as_tags,
    load_mlflow,
    log_texts,
    open_client,
    open_existing,
    prepare_store,
    root_cause,
)
from dit_lab.tracking.notes import command_of, describe, facts_of, facts_of_sweep
from dit_lab.tracking.record import log_points, points_of

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

PARENT_TAG = "mlflow.parentRunId"  # by which MLflow's page nests runs
JOB_TAG = "dit_lab.job"  # the number of a sweep's job
SEARCHED_BY = ("objective", "model", "dataset", "sampler")
JOBS = "dit_lab.jobs"  # number of all jobs; dit_lab.jobs_failed: of those with a status
NAME_CHARACTERS = 200


def job_name(tags: Mapping[str, str]) -> str:
    """Return the name of the run of a sweep's job: its number and its values on the axes.

    MLflow's lists and plots show no more of a run. Returns "" for the tags of other runs.
    """
    if JOB_TAG not in tags:
        return ""
    return f"{tags[JOB_TAG]} {tags['dit_lab.overrides']}"[:NAME_CHARACTERS]


def member_tags(choices: Mapping[str, str]) -> dict[str, str]:
    """Return tags with the chosen members that runs are searched by most."""
    return {f"dit_lab.{name}": choices[name] for name in SEARCHED_BY if name in choices}


def open_parent(
    uri: str,
    *,
    experiment: str,
    artifact_root: Path,
    name: str,
    params: Mapping[str, str],
    tags: Mapping[str, str],
    note: str,
    run_id: str | None = None,
) -> tuple[str | None, str]:
    """Create the parent run, or reopen `run_id`.

    The store's tables and the experiment are created here, once, before any job needs them.

    Returns:
        The id of the run and "", or, if the store does not answer, the known id (or None) and why.

    Raises:
        RequestError: if the user must correct something.
    """
    try:
        if run_id is not None:
            client = open_existing(uri)
            client.update_run(run_id, status=RUNNING)
            _tell_counts(client, run_id, {})  # remove those of the interrupted sweep
            return run_id, ""
        experiment_id = prepare_store(uri, experiment=experiment, artifact_root=artifact_root)
        client = open_client(uri)
        run = client.create_run(experiment_id, run_name=name)
        log_texts(client, run.info.run_id, params=as_params(params), tags=as_tags(tags))
        describe(client, run, facts_of(tags, {}), own=note)
        return run.info.run_id, ""
    except RequestError:
        raise
    except Exception as error:  # a sweep can start without MLflow
        return run_id, root_cause(error)


def close_parent(
    uri: str, run_id: str, *, status: str, counts: Mapping[str, int], files: Sequence[Path]
) -> str:
    """End the run of a sweep with the job counts by status; return why that failed, or ""."""
    try:
        client = open_existing(uri)
        for path in files:
            client.log_artifact(run_id, str(path))
        _tell_counts(client, run_id, counts)
        client.set_terminated(run_id, status)
    except Exception as error:  # the sweep's folder has everything
        return root_cause(error)
    return ""


def _tell_counts(client: MlflowClient, run_id: str, counts: Mapping[str, int]) -> None:
    """Replace the tags with the numbers of jobs, in all and by status; {} removes them."""
    tags = {f"{JOBS}_{name.lower()}": str(number) for name, number in counts.items()}
    if counts:
        tags[JOBS] = str(sum(counts.values()))
        _log_numbers(client, run_id, {f"jobs/{s.lower()}": counts.get(s, 0) for s in STATUSES})
    for known in client.get_run(run_id).data.tags:
        if known.startswith(JOBS) and known not in tags:
            client.delete_tag(run_id, known)
    log_texts(client, run_id, params={}, tags=tags)


def children_of(uri: str, run_id: str) -> tuple[set[str], str]:
    """Return the ids of the runs below a sweep's run, and why the store does not answer, or ""."""
    try:
        client = open_existing(uri)
        experiment = client.get_run(run_id).info.experiment_id
        return {one.info.run_id for one in _below(client, experiment, run_id)}, ""
    except Exception as error:
        return set(), root_cause(error)


def delete_runs(uri: str, run_ids: Iterable[str], *, but: Collection[str] = ()) -> tuple[int, str]:
    """Delete runs and all runs below them, except `but`.

    MLflow keeps deleted runs until `mlflow gc`.

    Returns:
        The number of deleted runs, and why not all were deleted, or "".
    """
    load_mlflow()
    from mlflow.exceptions import MlflowException

    deleted = 0
    try:
        client = open_existing(uri)
        for run_id in run_ids:
            try:
                run = client.get_run(run_id)
            except MlflowException as error:
                if error.error_code == "RESOURCE_DOES_NOT_EXIST":  # permanently deleted before
                    continue
                raise
            for one in (*_below(client, run.info.experiment_id, run_id), run):
                if one.info.lifecycle_stage == "active" and one.info.run_id not in but:
                    client.delete_run(one.info.run_id)
                    deleted += 1
    except Exception as error:  # the runs' folders are removed already
        return deleted, root_cause(error)
    return deleted, ""


def _below(client: MlflowClient, experiment: str, run_id: str, **tags: str) -> list[Run]:
    """Return the children of a run, or those of them that have the given tags."""
    asked = {PARENT_TAG: run_id, **tags}
    same = " and ".join(f"tags.`{key}` = '{text}'" for key, text in asked.items())
    return all_pages(client.search_runs, [experiment], filter_string=same)


def has_ended(uri: str, run_id: str | None) -> bool:
    """Return whether a run has ended in the store; False if the store lacks it or is away."""
    try:
        return run_id is not None and open_existing(uri).get_run(run_id).info.status != RUNNING
    except Exception:  # the next update of the store reports it
        return False


def log_report(uri: str, run_id: str, *, files: Sequence[Path]) -> str:
    """Log a sweep's report below `report`, and its summary; return why that failed, or ""."""
    try:
        client = open_existing(uri)
        run = client.get_run(run_id)
        for path in files:
            client.log_artifact(run_id, str(path), "report")
            if path.name == SUMMARY:
                found: Summary = read_as(Summary, read_json(path), where=path)
                _log_numbers(client, run_id, found["numbers"])
                tags = {"dit_lab.metric": found["metric"], "dit_lab.best": found["best"]}
                log_texts(client, run_id, params={}, tags=as_tags(tags))
                facts = [facts_of_sweep(found, run, files), command_of(run.data.tags)]
                describe(client, run, "\n\n".join(filter(None, facts)))
    except Exception as error:
        return root_cause(error)
    return ""


def _log_numbers(client: MlflowClient, run_id: str, numbers: Mapping[str, float]) -> None:
    """Log metrics of a sweep as a whole, all at step 0; the newest value counts."""
    row = MetricsRow(step=0, seconds=time.time(), metrics=dict(numbers))
    log_points(client, run_id, points_of([row]))


def attach_to_parent(uri: str, run_id: str, *, tags: Mapping[str, str]) -> tuple[bool, str]:
    """Make a run the child that `tags` describe.

    This is not possible if the run belongs to another job or sweep, is not in the store any more,
    or lies in another experiment: MLflow's page does not nest runs across experiments.

    Returns:
        Whether the run is that child now, and why MLflow did not answer, or "".
    """
    load_mlflow()
    from mlflow.exceptions import MlflowException

    try:
        client = open_existing(uri)
        try:
            run = client.get_run(run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False, ""
            raise
        parent = client.get_run(tags[PARENT_TAG])
        same_list = run.info.experiment_id == parent.info.experiment_id
        if run.info.lifecycle_stage != "active" or not same_list:
            return False, ""
        if PARENT_TAG not in run.data.tags:
            log_texts(client, run_id, params={}, tags=as_tags(tags))
            return True, ""
        own = (PARENT_TAG, JOB_TAG)
        return all(run.data.tags.get(key) == tags.get(key) for key in own), ""
    except Exception as error:
        return False, root_cause(error)


def log_child(
    uri: str,
    *,
    experiment: str,
    artifact_root: Path,
    config: Mapping[str, Any],
    tags: Mapping[str, str],
    known_by: str,
    folder: RunFolder,
    rows: Sequence[MetricsRow],
    artifacts: Sequence[Path],
    status: str = FINISHED,
    note: str = "",
) -> tuple[str | None, str]:
    """Create a child run for weights that were trained in another run.

    Args:
        known_by: a tag that identifies the child among those of its parent; an existing child with
            this tag is reused.
        folder: the run folder of the training.
        rows: the metrics of the child.

    Returns:
        The id of the run and "", or None and why that failed.
    """
    try:
        experiment_id = prepare_store(uri, experiment=experiment, artifact_root=artifact_root)
        client, parent = open_client(uri), tags[PARENT_TAG]
        known = _below(client, experiment_id, parent, **{known_by: tags[known_by]})
        name = job_name(tags) or tags["dit_lab.overrides"][:NAME_CHARACTERS]
        run = known[0] if known else client.create_run(experiment_id, run_name=name)
        run_id: str = run.info.run_id
        log_texts(client, run_id, params=as_params(config), tags=as_tags(tags))
        log_data(client, run_id, folder, config)
        log_points(client, run_id, points_of(rows))
        for file in artifacts:
            client.log_artifact(run_id, str(file), file.parent.name)
        newest = {name: value for row in rows for name, value in row.metrics.items()}
        describe(client, client.get_run(run_id), facts_of(tags, newest), own=note)
        client.set_terminated(run_id, status)
        return run_id, ""
    except Exception as error:
        return None, root_cause(error)
