"""The run in MLflow that holds a sweep together: made before any job, closed after all of them."""

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

PARENT_TAG = "mlflow.parentRunId"  # what MLflow's page nests by
JOB_TAG = "dit_lab.job"  # the number of a sweep's job
SEARCHED_BY = ("objective", "model", "dataset", "sampler")
JOBS = "dit_lab.jobs"  # how many there are; dit_lab.jobs_failed: how many of a status
NAME_CHARACTERS = 200


def job_name(tags: Mapping[str, str]) -> str:
    """What a sweep's run is called: its number and what tells it from the others, which is all that
    MLflow's lists and plots show of a run; "" for the tags of other runs."""
    if JOB_TAG not in tags:
        return ""
    return f"{tags[JOB_TAG]} {tags['dit_lab.overrides']}"[:NAME_CHARACTERS]


def member_tags(choices: Mapping[str, str]) -> dict[str, str]:
    """Tags with the chosen members that runs are searched by most."""
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
    """Make the parent run, or open `run_id` again; (its id, "") or, from a store that does not
    answer, (what is known of it, why).

    The store's tables and the experiment are made here, once, before any job needs them. Raises
    RequestError for what the user must put right.
    """
    try:
        if run_id is not None:
            client = open_existing(uri)
            client.update_run(run_id, status=RUNNING)
            _tell_counts(client, run_id, {})  # of an end that was none
            return run_id, ""
        experiment_id = prepare_store(uri, experiment=experiment, artifact_root=artifact_root)
        client = open_client(uri)
        run = client.create_run(experiment_id, run_name=name)
        log_texts(client, run.info.run_id, params=as_params(params), tags=as_tags(tags))
        describe(client, run, facts_of(tags, {}), own=note)
        return run.info.run_id, ""
    except RequestError:
        raise
    except Exception as error:  # whatever it is, a sweep does not need it to start
        return run_id, root_cause(error)


def close_parent(
    uri: str, run_id: str, *, status: str, counts: Mapping[str, int], files: Sequence[Path]
) -> str:
    """Say how a sweep ended, and how many jobs have which status; "" or why MLflow did not take
    it."""
    try:
        client = open_existing(uri)
        for path in files:
            client.log_artifact(run_id, str(path))
        _tell_counts(client, run_id, counts)
        client.set_terminated(run_id, status)
    except Exception as error:  # whatever it is, the sweep's folder has everything
        return root_cause(error)
    return ""


def _tell_counts(client: MlflowClient, run_id: str, counts: Mapping[str, int]) -> None:
    """Tags with the number of all jobs and of those of each status, in the place of earlier ones;
    {}: none."""
    tags = {f"{JOBS}_{name.lower()}": str(number) for name, number in counts.items()}
    if counts:
        tags[JOBS] = str(sum(counts.values()))
        _log_numbers(client, run_id, {f"jobs/{s.lower()}": counts.get(s, 0) for s in STATUSES})
    for known in client.get_run(run_id).data.tags:
        if known.startswith(JOBS) and known not in tags:
            client.delete_tag(run_id, known)
    log_texts(client, run_id, params={}, tags=tags)


def children_of(uri: str, run_id: str) -> tuple[set[str], str]:
    """The ids of the runs below a sweep's run, and "" or why the store does not say so."""
    try:
        client = open_existing(uri)
        experiment = client.get_run(run_id).info.experiment_id
        return {one.info.run_id for one in _below(client, experiment, run_id)}, ""
    except Exception as error:
        return set(), root_cause(error)


def delete_runs(uri: str, run_ids: Iterable[str], *, but: Collection[str] = ()) -> tuple[int, str]:
    """Delete runs and all below them, `but` some; how many, and "" or why not all of them.

    MLflow keeps what is deleted until `mlflow gc`.
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
                if error.error_code == "RESOURCE_DOES_NOT_EXIST":  # deleted for good before
                    continue
                raise
            for one in (*_below(client, run.info.experiment_id, run_id), run):
                if one.info.lifecycle_stage == "active" and one.info.run_id not in but:
                    client.delete_run(one.info.run_id)
                    deleted += 1
    except Exception as error:  # whatever it is, the runs' folders are gone
        return deleted, root_cause(error)
    return deleted, ""


def _below(client: MlflowClient, experiment: str, run_id: str, **tags: str) -> list[Run]:
    """The children of a run, or those of them that have such tags."""
    asked = {PARENT_TAG: run_id, **tags}
    same = " and ".join(f"tags.`{key}` = '{text}'" for key, text in asked.items())
    return all_pages(client.search_runs, [experiment], filter_string=same)


def has_ended(uri: str, run_id: str | None) -> bool:
    """Whether the store says that a run has ended; not where it does not know it, or is away."""
    try:
        return run_id is not None and open_existing(uri).get_run(run_id).info.status != RUNNING
    except Exception:  # whatever it is, whoever tells the store next hears of it
        return False


def log_report(uri: str, run_id: str, *, files: Sequence[Path]) -> str:
    """Keep a sweep's report with its run, below `report`, and say there what it says in short; ""
    or why MLflow did not take it."""
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
    """Metrics of a sweep as a whole, which has no steps: the newest is what counts."""
    row = MetricsRow(step=0, seconds=time.time(), metrics=dict(numbers))
    log_points(client, run_id, points_of([row]))


def adopt(uri: str, run_id: str, *, tags: Mapping[str, str]) -> tuple[bool, str]:
    """Make a run the child that `tags` describe; (whether it is that now, "" or why MLflow did not
    answer).

    It is not where the run is another job's or another sweep's, lies in another experiment, whose
    runs MLflow's page does not show below each other, or is not in the store any more.
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
    """A child run for weights that were trained in another run; (its id, "") or (None, why MLflow
    did not take it).

    known_by: the tag that tells it from the other children of its parent; where there is a child
    with this tag, that one is taken again. folder: of the training. rows: the numbers that are to
    be seen of it.
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
