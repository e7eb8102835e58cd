"""Errors of the MLflow store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dit_lab.core import trust
from tests.errors.case import Case, heavy
from tests.errors.starts import wrote

Q = "train experiment=quickstart"
TINY = "train experiment=tiny tracking=mlflow"


def deleted_experiment(folder: Path) -> None:
    """A store whose experiment `tiny` was deleted."""
    from dit_lab.tracking.mlflow_store import open_client, prepare_store

    uri = trust.trust_store(f"sqlite:///{folder}/outputs/mlflow.db")
    experiment = prepare_store(uri, experiment="tiny", artifact_root=folder / "outputs/mlartifacts")
    open_client(uri).delete_experiment(experiment)


def kept_elsewhere(place: str) -> Callable[[Path], None]:
    """A store whose experiment `tiny` keeps its artifacts where `place` says."""

    def make(folder: Path) -> None:
        from dit_lab.tracking.mlflow_store import open_client, prepare_store

        uri = trust.trust_store(f"sqlite:///{folder}/outputs/mlflow.db")
        prepare_store(uri, experiment="other", artifact_root=folder / "outputs/mlartifacts")
        (folder / "outputs/taken").write_text("no folder")
        location = place.format(folder=folder)
        open_client(uri).create_experiment("tiny", artifact_location=location)

    return make


# fmt: off
CASES = (
    Case("a store in plain files", f"{Q} tracking.uri=file:mlruns",
         "tracking.uri=file:mlruns: MLflow no longer keeps runs in plain folders; give sq"),
    Case("a store that is a folder", f"{Q} tracking.uri=./mlruns",
         "MLflow no longer keeps runs in plain folders"),
    Case("an unknown kind of store", f"{Q} tracking.uri=ftp://anna:secret@host/runs",
         r"tracking.uri=ftp://\*\*\*@host/runs: unknown kind of store 'ftp'"),
    Case("a database without an absolute path", f"{Q} tracking.uri=sqlite:///mlflow.db",
         "needs the absolute path of a file"),
    heavy("a database that cannot be written",
         f"{TINY} tracking.uri=sqlite:///FOLDER/store/mlflow.db",
         "tracking.uri=sqlite:///FOLDER/store/mlflow.db: cannot be used: ", start="recipe",
         mount={"store": "ro"}),
    Case("a file that is no database", TINY,
         "tracking.uri=sqlite:///FOLDER/outputs/mlflow.db: is no sqlite database", start="recipe",
         prepare=wrote("outputs/mlflow.db", "this is a text")),
    heavy("an experiment that was deleted", TINY,
         "tracking.experiment=tiny: was deleted from the store; .* restore -x 1", start="recipe",
         prepare=deleted_experiment),
    heavy("an experiment that a server made", TINY,
         "tracking.experiment=tiny: was made through a server, which keeps the artifacts; give",
         start="recipe", prepare=kept_elsewhere("mlflow-artifacts:/5")),
    heavy("an experiment of somebody else's folder", TINY,
         "tracking.experiment=tiny: keeps its artifacts in FOLDER/outputs/taken/5, where this user",
         start="recipe", prepare=kept_elsewhere("file://{folder}/outputs/taken/5")),
    heavy("a database whose driver is not there",
         f"{TINY} tracking.uri=mysql+nodriver://anna:secret@host/runs",
         r"tracking.uri=mysql\+nodriver://\*\*\*@host/runs: cannot be used: .*nodriver",
         start="recipe", leaves=("outputs", "outputs/mlartifacts.lock")),
    heavy("a server that does not answer", f"{TINY} tracking.uri=http://127.0.0.1:9",
         "MLflow at http://127.0.0.1:9 cannot be updated", start="recipe", code=0,
         leaves=("outputs*",)),
)
