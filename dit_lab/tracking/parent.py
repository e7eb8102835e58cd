"""The run in MLflow that holds a sweep together: made before any job, closed after all of them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dit_lab.core.errors import RequestError
from dit_lab.runs.folder import FINISHED, RUNNING
from dit_lab.tracking.mlflow_store import (
    as_params,
    as_tags,
    clean_key,
    log_texts,
    open_client,
    open_existing,
    prepare_store,
    root_cause,
)
from dit_lab.tracking.spool import finite_metrics

PARENT_TAG = "mlflow.parentRunId"  # what MLflow's page nests by
NAME_CHARACTERS = 200


def job_name(tags: Mapping[str, str]) -> str:
    """What a sweep's run is called: its number and what tells it from the others, which is all that
    MLflow's lists and plots show of a run; "" for the tags of other runs."""
    if "dit_lab.job" not in tags:
        return ""
    return f"{tags['dit_lab.job']} {tags['dit_lab.overrides']}"[:NAME_CHARACTERS]


def open_parent(
    uri: str,
    *,
    experiment: str,
    artifact_root: Path,
    name: str,
    params: Mapping[str, str],
    tags: Mapping[str, str],
    run_id: str | None = None,
) -> tuple[str | None, str]:
    """Make the parent run, or open `run_id` again; (its id, "") or, from a store that does not
    answer, (what is known of it, why).

    The store's tables and the experiment are made here, once, before any job needs them. Raises
    RequestError for what the user must put right.
    """
    try:
        if run_id is not None:
            open_existing(uri).update_run(run_id, status=RUNNING)
            return run_id, ""
        experiment_id = prepare_store(uri, experiment=experiment, artifact_root=artifact_root)
        client = open_client(uri)
        run = client.create_run(experiment_id, run_name=name)
        log_texts(client, run.info.run_id, params=as_params(params), tags=as_tags(tags))
        return run.info.run_id, ""
    except RequestError:
        raise
    except Exception as error:  # whatever it is, a sweep does not need it to start
        return run_id, root_cause(error)


def close_parent(
    uri: str,
    run_id: str,
    *,
    status: str,
    tags: Mapping[str, str],
    children: Sequence[str],
    files: Sequence[Path],
) -> str:
    """Say how a sweep ended, and which runs are its children; "" or why MLflow did not take it."""
    try:
        client = open_existing(uri)
        for child in children:
            client.set_tag(child, PARENT_TAG, run_id)
        for path in files:
            client.log_artifact(run_id, str(path))
        log_texts(client, run_id, params={}, tags=as_tags(tags))
        client.set_terminated(run_id, status)
    except Exception as error:  # whatever it is, the sweep's folder has everything
        return root_cause(error)
    return ""


def has_ended(uri: str, run_id: str | None) -> bool:
    """Whether the store says that a run has ended; not where it does not know it, or is away."""
    try:
        return run_id is not None and open_existing(uri).get_run(run_id).info.status != RUNNING
    except Exception:  # whatever it is, whoever tells the store next hears of it
        return False


def log_report(uri: str, run_id: str, *, files: Sequence[Path]) -> str:
    """Keep a sweep's report with its run, below `report`; "" or why MLflow did not take it."""
    try:
        client = open_existing(uri)
        for path in files:
            client.log_artifact(run_id, str(path), "report")
    except Exception as error:
        return root_cause(error)
    return ""


def adopt(uri: str, run_id: str, *, tags: Mapping[str, str]) -> str:
    """Make a run that was trained before the sweep its child, unless it is another's; "" or why
    MLflow did not take it."""
    try:
        client = open_existing(uri)
        if PARENT_TAG not in client.get_run(run_id).data.tags:
            log_texts(client, run_id, params={}, tags=as_tags(tags))
    except Exception as error:
        return root_cause(error)
    return ""


def log_measured(
    uri: str,
    *,
    experiment: str,
    artifact_root: Path,
    config: Mapping[str, Any],
    tags: Mapping[str, str],
    metrics: Mapping[str, float],
    step: int,
    artifact: Path,
) -> tuple[str | None, str]:
    """A child run for weights that another job has trained, measured in another way; (its id, "")
    or (None, why MLflow did not take it). `tags` are this job's alone: their run is taken again.
    """
    try:
        experiment_id = prepare_store(uri, experiment=experiment, artifact_root=artifact_root)
        from mlflow.entities import Metric

        client, now = open_client(uri), int(time.time() * 1000)
        same = " and ".join(f"tags.`{key}` = '{text}'" for key, text in as_tags(tags).items())
        known = client.search_runs([experiment_id], filter_string=same, max_results=1)
        run = known[0] if known else client.create_run(experiment_id, run_name=job_name(tags))
        log_texts(client, run.info.run_id, params=as_params(config), tags=as_tags(tags))
        points = finite_metrics(metrics).items()
        client.log_batch(
            run.info.run_id, metrics=[Metric(clean_key(k), v, now, step) for k, v in points]
        )
        client.log_artifact(run.info.run_id, str(artifact), "evaluations")
        client.set_terminated(run.info.run_id, FINISHED)
        return run.info.run_id, ""
    except Exception as error:
        return None, root_cause(error)
