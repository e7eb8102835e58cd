"""Models in MLflow: the exported file, the lab's source and a signature, without pickle."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Iterator
from importlib.metadata import requires, version
from pathlib import Path

from dit_lab.core import trust
from dit_lab.core.errors import RequestError
from dit_lab.tracking.addresses import shown
from dit_lab.tracking.mlflow_store import (
    StoreUnreachableError,
    load_mlflow,
    open_client,
    prepare_store,
    root_cause,
)
from dit_lab.tracking.trained_model import KIND, link, model_name

CODE = Path(__file__).with_name("served_model.py")
PACKAGE = Path(__file__).resolve().parent.parent
ARTIFACT = "sampler"


def keep_model(
    name: str,
    *,
    register: bool,
    weights: Path,
    codec: Path | None,
    guidance_scale: float,
    uri: str,
    experiment: str,
    artifact_root: Path,
    run_id: str | None,
) -> str:
    """Log an exported file as an MLflow model, with its codec's folder.

    With a `run_id`, the model belongs to that run and gets its metrics.

    Args:
        register: whether to register a version of the model under `name`.

    Returns:
        The address of the model, models:/NAME/VERSION or models:/ID.

    Raises:
        RequestError: if the store cannot be used.
    """
    load_mlflow()
    from mlflow.exceptions import MlflowException

    try:
        experiment_id = prepare_store(uri, experiment=experiment, artifact_root=artifact_root)
        client = open_client(uri)
        run = None if run_id is None else client.get_run(run_id)
        if run is not None:
            experiment_id = run.info.experiment_id
        with tempfile.TemporaryDirectory(prefix="dit-lab-") as place, _store_of(uri):
            saved = _saved(Path(place) / ARTIFACT, weights, codec, guidance_scale)
            logged = client.create_logged_model(
                experiment_id, name=model_name(name), source_run_id=run_id, model_type=KIND
            )
            client.log_model_artifacts(logged.model_id, str(saved))
            client.finalize_logged_model(logged.model_id, "READY")
            if run is not None:
                link(client, run, logged.model_id)
            if not register:
                return f"models:/{logged.model_id}"
            with contextlib.suppress(MlflowException):  # it exists already
                client.create_registered_model(name)
            made = client.create_model_version(
                name, f"models:/{logged.model_id}", run_id=run_id, model_id=logged.model_id
            )
    except (MlflowException, StoreUnreachableError) as error:
        raise RequestError(f"tracking.uri={shown(uri)}: {root_cause(error)}") from None
    return f"models:/{name}/{made.version}"


def _saved(folder: Path, weights: Path, codec: Path | None, guidance_scale: float) -> Path:
    """Save the model in MLflow's format, and return its folder."""
    import mlflow
    import pandas as pd
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    signature = ModelSignature(
        inputs=Schema([ColSpec("long", "label")]),
        outputs=Schema([ColSpec("long", "label"), ColSpec("string", "image")]),
        params=ParamSchema(
            [ParamSpec("seed", "long", 0), ParamSpec("guidance_scale", "double", guidance_scale)]
        ),
    )
    artifacts = {"weights": str(weights), **({"codec": str(codec)} if codec else {})}
    mlflow.pyfunc.save_model(
        str(folder),
        python_model=str(CODE),
        artifacts=artifacts,
        code_paths=[str(PACKAGE)],
        signature=signature,
        input_example=(pd.DataFrame({"label": [0, 1]}), {"seed": 0}),
        pip_requirements=requirements(),
    )
    return folder


def requirements() -> list[str]:
    """Return the lab's own requirements, in the versions that are installed here."""
    names = [
        re.split(r"[ \[<>=!~;]", line)[0]
        for line in requires("dit-lab") or []
        if "extra" not in line
    ]
    return [f"{name}=={version(name)}" for name in names]


@contextlib.contextmanager
def _store_of(uri: str) -> Iterator[None]:
    """Set the process's tracking URI: a model registry uses that, and not the client's."""
    import mlflow

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(trust.with_password(uri))
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)
