"""The MLflow store."""

from __future__ import annotations

from pathlib import Path

from tests.errors.case import Area, Case
from tests.errors.starts import wrote

Q = "train experiment=quickstart"
TINY = "train experiment=tiny tracking=mlflow"


def deleted_experiment(folder: Path) -> None:
    """A store whose experiment `tiny` was deleted."""
    from dit_lab.tracking.mlflow_store import open_client, prepare_store

    uri = f"sqlite:///{folder}/outputs/mlflow.db"
    experiment = prepare_store(uri, experiment="tiny", artifact_root=folder / "outputs/mlartifacts")
    open_client(uri).delete_experiment(experiment)


AREA = Area(
    title="Tracking",
    cases=(
        Case(
            title="a store in plain files",
            command=f"{Q} tracking.uri=file:mlruns",
            says="tracking.uri=file:mlruns: MLflow no longer keeps runs in plain folders; give sq",
        ),
        Case(
            title="a store that is a folder",
            command=f"{Q} tracking.uri=./mlruns",
            says="MLflow no longer keeps runs in plain folders",
        ),
        Case(
            title="an unknown kind of store",
            command=f"{Q} tracking.uri=ftp://anna:secret@host/runs",
            says=r"tracking.uri=ftp://\*\*\*@host/runs: unknown kind of store 'ftp'",
        ),
        Case(
            title="a database without an absolute path",
            command=f"{Q} tracking.uri=sqlite:///mlflow.db",
            says="needs the absolute path of a file",
        ),
        Case(
            title="a database that cannot be written",
            command=f"{TINY} tracking.uri=sqlite:///FOLDER/store/mlflow.db",
            start="recipe",
            mount={"store": "ro"},
            says="tracking.uri=sqlite:///FOLDER/store/mlflow.db: cannot be used: ",
            slow=True,
        ),
        Case(
            title="a file that is no database",
            command=TINY,
            start="recipe",
            prepare=wrote("outputs/mlflow.db", "this is a text"),
            says="cannot be used: file is not a database",
            slow=True,
            leaves=("outputs/mlflow.db.lock",),
        ),
        Case(
            title="an experiment that was deleted",
            command=TINY,
            start="recipe",
            prepare=deleted_experiment,
            says="tracking.experiment=tiny: was deleted from the store; .* restore -x 1",
            slow=True,
        ),
        Case(
            title="a database whose driver is not there",
            command=f"{TINY} tracking.uri=mysql+nodriver://anna:secret@host/runs",
            start="recipe",
            says=r"tracking.uri=mysql\+nodriver://\*\*\*@host/runs: cannot be used: .*nodriver",
            slow=True,
            leaves=("outputs", "outputs/mlartifacts.lock"),
        ),
        Case(
            title="a server that does not answer",
            command=f"{TINY} tracking.uri=http://127.0.0.1:9",
            start="recipe",
            says="MLflow at http://127.0.0.1:9 does not take what is sent",
            code=0,
            slow=True,
            leaves=("outputs*",),
        ),
    ),
)
