"""Trained models in MLflow's list of models, each with its run and the metrics of the run."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

KIND = "diffusion transformer"


def log_trained(client: MlflowClient, run_id: str) -> None:
    """List the model of a run whose training has finished, unless it is listed already.

    The call may be repeated after a failure. The weights stay in the run folder; `mlflow_model.py`
    copies weights into the store.
    """
    run = client.get_run(run_id)
    if run.outputs and run.outputs.model_outputs:
        return
    params, tags, experiment = run.data.params, run.data.tags, run.info.experiment_id
    begun = client.search_logged_models([experiment], f"source_run_id = '{run_id}'")
    model = (
        begun[0]
        if begun
        else client.create_logged_model(
            experiment,
            name=model_name(run.info.run_name or run_id),
            source_run_id=run_id,
            params={key: text for key, text in params.items() if "." not in key},
            tags={key: text for key, text in tags.items() if key.startswith("dit_lab.")},
            model_type=KIND,
        )
    )
    client.finalize_logged_model(model.model_id, "READY")
    link(client, run, model.model_id)


def link(client: MlflowClient, run: Run, model_id: str) -> None:
    """Log a model as the output of a run, with the last values of the run's evaluation metrics."""
    from mlflow.entities import LoggedModelOutput, Metric

    run_id = run.info.run_id
    newest = [
        max(client.get_metric_history(run_id, key), key=lambda point: point.step)
        for key in run.data.metrics
        if key.startswith("eval")
    ]
    points = [
        Metric(p.key, p.value, p.timestamp, p.step, model_id=model_id, run_id=run_id)
        for p in newest
    ]
    client.log_batch(run_id, metrics=points)
    step = max((point.step for point in newest), default=0)
    client.log_outputs(run_id, models=[LoggedModelOutput(model_id, step=step)])


def model_name(name: str) -> str:
    """Return the name without characters that MLflow forbids in names of models."""
    return re.sub(r"[/:.%\"']", "-", name)
