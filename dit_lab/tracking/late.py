"""Runs in MLflow that have ended: what is found out afterwards, sent at once by who found it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dit_lab.core.errors import RequestError
from dit_lab.runs.folder import (
    FAILED,
    FINISHED,
    KILLED,
    RunFolder,
    read_status,
    read_tracked,
    update_status,
)
from dit_lab.runs.metrics import read_metrics
from dit_lab.tracking.addresses import check_uri, shown
from dit_lab.tracking.mlflow_store import (
    METRICS_PER_REQUEST,
    TAG_CHARACTERS,
    StoreUnreachableError,
    as_params,
    as_tags,
    clean_key,
    last_steps,
    load_mlflow,
    log_texts,
    open_existing,
    prepare_store,
    root_cause,
)
from dit_lab.tracking.spool import finite_metrics

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

MOST_RUNS = 1000  # of one report


def log_late(
    uri: str, run_id: str, *, metrics: Mapping[str, float], step: int, artifact: Path
) -> str:
    """Add metrics at a step, and a file in `evaluations/`; "" or why MLflow did not take them."""
    try:
        load_mlflow()
        from mlflow.entities import Metric

        client, now = open_existing(uri), int(time.time() * 1000)
        points = [
            Metric(clean_key(name), value, now, step)
            for name, value in finite_metrics(metrics).items()
        ]
        client.log_batch(run_id, metrics=points)
        client.log_artifact(run_id, str(artifact), "evaluations")
    except Exception as error:  # whatever it is, the file on disk has everything
        return root_cause(error)
    return ""


def find_folders(uri: str, filter_string: str) -> list[Path]:
    """The run folders of the runs that an MLflow filter finds; RequestError where there are none.

    https://mlflow.org/docs/latest/ml/search/search-runs
    """
    check_uri(uri)
    load_mlflow()
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        client = open_existing(uri)
        experiments = [one.experiment_id for one in client.search_experiments()]
        found = client.search_runs(experiments, filter_string=filter_string, max_results=MOST_RUNS)
    except (MlflowException, SQLAlchemyError, OSError, ImportError, StoreUnreachableError) as error:
        raise RequestError(
            f"filter={filter_string}: {root_cause(error)} (tracking.uri={shown(uri)})"
        ) from None
    folders = [Path(run.data.tags.get("dit_lab.run_folder", "")) for run in found]
    here = dict.fromkeys(path for path in folders if (path / "config.yaml").is_file())
    if not here:
        raise RequestError(
            f"filter={filter_string}: finds {len(found)} runs, of which none lies on this machine"
        )
    return list(here)


def settle(folder: RunFolder, config: Mapping[str, Any]) -> str:
    """Bring the page of a run that has ended up to date; what was done, in words.

    A run that the store never saw is made, as of the time when it was trained. One whose status
    is final in the store is left as it is.
    """
    found, tracking = read_status(folder), config["tracking"]
    run_id = found.get("tracking_run_id")
    told = read_tracked(folder)
    if run_id is None and not told:  # it ended before anybody was to be told of it
        return ""
    try:
        client = open_existing(tracking["uri"])
        if run_id is None:
            run_id = _make(client, folder, config, name=told["name"], tags=told["tags"])
        elif client.get_run(run_id).info.status in (FINISHED, FAILED, KILLED):
            return ""
        missing = _missing(client, run_id, folder.metrics)
        for start in range(0, len(missing), METRICS_PER_REQUEST):
            client.log_batch(run_id, metrics=missing[start : start + METRICS_PER_REQUEST])
        for path in folder.artifacts():
            client.log_artifact(run_id, str(path), path.parent.name)
        if error := found.get("error"):
            client.set_tag(run_id, "error", error[:TAG_CHARACTERS])
        client.set_terminated(run_id, found["status"], end_time=int(found["updated"] * 1000))
    except Exception as trouble:  # a doctor who cannot reach one store still sees the other runs
        return f"MLflow was not told ({root_cause(trouble)})"
    return f"MLflow was told, with {len(missing)} points that it lacked"


def _make(
    client: MlflowClient,
    folder: RunFolder,
    config: Mapping[str, Any],
    *,
    name: str,
    tags: Mapping[str, str],
) -> str:
    """A run for what was trained while nobody could be told; its id."""
    uri, experiment = config["tracking"]["uri"], config["tracking"]["experiment"]
    artifact_root = Path(config["paths"]["root"]) / "mlartifacts"
    experiment_id = prepare_store(uri, experiment=experiment, artifact_root=artifact_root)
    rows = read_metrics(folder.metrics)
    began = int(rows[0].seconds * 1000) if rows else None
    run_id = client.create_run(experiment_id, start_time=began, run_name=name).info.run_id
    update_status(folder, tracking_run_id=run_id)
    log_texts(client, run_id, params=as_params(config), tags=as_tags(tags))
    client.log_artifact(run_id, str(folder.config))
    return str(run_id)


def _missing(client: MlflowClient, run_id: str, metrics: Path) -> list[Metric]:
    """The points of metrics.jsonl past the last one that the store has of their metric."""
    from mlflow.entities import Metric

    last = last_steps(client, run_id)
    return [
        Metric(clean_key(name), value, int(row.seconds * 1000), row.step)
        for row in read_metrics(metrics)
        for name, value in row.metrics.items()
        if row.step > last.get(clean_key(name), -1)
    ]
