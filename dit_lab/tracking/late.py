"""Runs in MLflow that have ended: what is found out afterwards, sent at once by who found it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dit_lab.core.errors import RequestError
from dit_lab.core.text import counted
from dit_lab.runs.folder import RunFolder, read_status, read_tracked, update_status
from dit_lab.runs.metrics import MetricsRow, read_metrics
from dit_lab.tracking.addresses import check_uri, shown
from dit_lab.tracking.inputs import log_data
from dit_lab.tracking.mlflow_store import (
    StoreUnreachableError,
    all_pages,
    load_mlflow,
    open_existing,
    prepare_store,
    root_cause,
)
from dit_lab.tracking.notes import describe_run
from dit_lab.tracking.record import Record, log_points, points_of

if TYPE_CHECKING:
    from mlflow import MlflowClient


def log_late(uri: str, run_id: str, row: MetricsRow, *, artifact: Path) -> str:
    """Add a row, and a file in `evaluations/`; "" or why MLflow did not take them."""
    try:
        client = open_existing(uri)
        log_points(client, run_id, points_of([row]))
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
        experiments = [one.experiment_id for one in all_pages(client.search_experiments)]
        found = all_pages(client.search_runs, experiments, filter_string=filter_string)
    except (MlflowException, SQLAlchemyError, OSError, ImportError, StoreUnreachableError) as error:
        raise RequestError(
            f"filter={filter_string}: {root_cause(error)} (tracking.uri={shown(uri)})"
        ) from None
    folders = [Path(run.data.tags.get("dit_lab.run_folder", "")) for run in found]
    here = dict.fromkeys(path for path in folders if (path / "config.yaml").is_file())
    if not here:
        raise RequestError(
            f"filter={filter_string}: finds {counted(len(found), 'run')}, of which none lies "
            "on this machine"
        )
    return list(here)


def settle(folder: RunFolder, config: Mapping[str, Any]) -> str:
    """Bring the page of a run that has ended up to date; what was done, in words.

    A run that the store never saw is made, as of the time when it was trained. What the store lacks
    of others is sent to it: points, parameters, tags, files, and how it ended.
    """
    found, told = read_status(folder), read_tracked(folder)
    if found.get("tracking_run_id") is None and not told:  # it ended before anybody was told of it
        return ""
    try:
        client = open_existing(config["tracking"]["uri"])
        run = client.get_run(found.get("tracking_run_id") or _make(client, folder, config, told))
        tags = {**told.get("labels", {}), **told.get("tags", {})}
        record = Record.of(folder, config, tags=tags, status=found)
        if run.info.lifecycle_stage != "active":
            return ""
        lacked = ""
        if not record.seems_whole(run):
            describe_run(client, run, folder)
            log_data(client, run.info.run_id, folder, config)
            lacked = record.complete(client, run)
        if found.get("is_tracked_whole") is False:
            update_status(folder, is_tracked_whole=True)
    except Exception as trouble:  # a doctor who cannot reach one store still sees the other runs
        return f"MLflow could not be updated ({root_cause(trouble)})"
    return f"MLflow was updated with what it lacked: {lacked}" if lacked else ""


def _make(
    client: MlflowClient, folder: RunFolder, config: Mapping[str, Any], told: Mapping[str, Any]
) -> str:
    """A run for what was trained while nobody could be told; its id."""
    uri, experiment = config["tracking"]["uri"], config["tracking"]["experiment"]
    artifact_root = Path(config["paths"]["root"]) / "mlartifacts"
    experiment_id = prepare_store(uri, experiment=experiment, artifact_root=artifact_root)
    rows = read_metrics(folder.metrics)
    began = int(rows[0].seconds * 1000) if rows else None
    run = client.create_run(experiment_id, start_time=began, run_name=told["name"])
    update_status(folder, tracking_run_id=run.info.run_id)
    return str(run.info.run_id)
