"""Updates of MLflow runs that have ended, sent at once by the process that has them."""

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
    """Add a row of metrics and a file in `evaluations/`; return why that failed, or ""."""
    try:
        client = open_existing(uri)
        log_points(client, run_id, points_of([row]))
        client.log_artifact(run_id, str(artifact), "evaluations")
    except Exception as error:  # the file on disk has everything
        return root_cause(error)
    return ""


def find_folders(uri: str, filter_string: str) -> list[Path]:
    """Return the run folders of the runs that match an MLflow filter.

    https://mlflow.org/docs/latest/ml/search/search-runs

    Raises:
        RequestError: if none of them is on this machine, or the store or the filter fails.
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
            f"filter={filter_string}: finds {counted(len(found), 'run')}, none of them on this "
            "machine"
        )
    return list(here)


def settle(folder: RunFolder, config: Mapping[str, Any]) -> str:
    """Update the MLflow run of a run that has ended; return what was done, in words.

    A run that the store does not have is created, with the times of its training. Other runs get
    what they lack: points, parameters, tags, files, and how they ended.
    """
    found, told = read_status(folder), read_tracked(folder)
    if found.get("tracking_run_id") is None and not told:  # it ended before tracking began
        return ""
    try:
        client = open_existing(config["tracking"]["uri"])
        run = client.get_run(found.get("tracking_run_id") or _make(client, folder, config, told))
        tags = {**told.get("labels", {}), **told.get("tags", {})}
        record = Record.of(folder, config, tags=tags, status=found)
        if run.info.lifecycle_stage != "active":
            return ""
        lacked = ""
        if not record.seems_complete(run):
            describe_run(client, run, folder)
            log_data(client, run.info.run_id, folder, config)
            lacked = record.complete(client, run)
        if found.get("is_tracked_whole") is False:
            update_status(folder, is_tracked_whole=True)
    except Exception as trouble:  # `dit-lab doctor` must go on with the other runs
        return f"MLflow could not be updated ({root_cause(trouble)})"
    return f"MLflow was updated: {lacked}" if lacked else ""


def _make(
    client: MlflowClient, folder: RunFolder, config: Mapping[str, Any], told: Mapping[str, Any]
) -> str:
    """Create the MLflow run of a training that could not be tracked; return its id."""
    uri, experiment = config["tracking"]["uri"], config["tracking"]["experiment"]
    artifact_root = Path(config["paths"]["root"]) / "mlartifacts"
    experiment_id = prepare_store(uri, experiment=experiment, artifact_root=artifact_root)
    rows = read_metrics(folder.metrics)
    began = int(rows[0].seconds * 1000) if rows else None
    run = client.create_run(experiment_id, start_time=began, run_name=told["name"])
    update_status(folder, tracking_run_id=run.info.run_id)
    return str(run.info.run_id)
