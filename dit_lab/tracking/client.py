"""MLflow client that writes artifacts only to allowed places. Importing it takes over a second."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mlflow import MlflowClient
from mlflow.entities import FileInfo

from dit_lab.core import trust
from dit_lab.core.errors import RequestError
from dit_lab.tracking.addresses import is_server


class Client(MlflowClient):
    """A client without global state: no active run and no MLFLOW_* variable decides for it.

    A database below `paths.root` may have been made by somebody else, and it says where artifacts
    go. Unless the command names the database, they go below the database's folder or nowhere.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._checked: set[str] = set()
        address = trust.with_password(uri)
        super().__init__(tracking_uri=address, registry_uri=address)

    def log_artifact(self, run_id: str, local_path: str, artifact_path: str | None = None) -> None:
        self._refuse_elsewhere(run_id)
        super().log_artifact(run_id, local_path, artifact_path)

    def list_artifacts(self, run_id: str, path: str | None = None) -> list[FileInfo]:
        self._refuse_elsewhere(run_id)
        return list(super().list_artifacts(run_id, path))

    def log_text(self, run_id: str, text: str, artifact_file: str) -> None:
        self._refuse_elsewhere(run_id)
        super().log_text(run_id, text, artifact_file)

    def _refuse_elsewhere(self, run_id: str) -> None:
        if run_id not in self._checked:
            check_artifact_location(self._uri, self.get_run(run_id).info.artifact_uri)
            self._checked.add(run_id)


def refuse_unwritable(uri: str, experiment: str, location: str) -> None:
    """Raise RequestError if this command cannot write where an experiment keeps its artifacts.

    Whoever made the experiment in a shared database has chosen that place.
    """
    place = urlsplit(location)
    if is_server(uri) or place.scheme not in ("", "file", "mlflow-artifacts"):
        return
    instead = "give the address of a server (`dit-lab ui` starts one), or another name"
    if place.scheme == "mlflow-artifacts":
        raise RequestError(
            f"tracking.experiment={experiment}: was made through a server, which keeps the "
            f"artifacts; {instead}"
        )
    folder = Path(unquote(place.path))
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        raise RequestError(
            f"tracking.experiment={experiment}: keeps its artifacts in {folder}, where this user "
            f"cannot write; {instead}"
        )


def check_artifact_location(uri: str, location: str) -> None:
    """Raise PermissionError if a database that the command does not name keeps artifacts elsewhere.

    Elsewhere is any place outside of the database's folder.
    """
    if trust.is_named(uri) or not uri.startswith("sqlite:"):
        return
    root, place = trust.sqlite_path(uri).parent.resolve(), urlsplit(location)
    inside = Path(unquote(place.path)).resolve().is_relative_to(root)
    if place.scheme not in ("", "file") or not inside:
        raise PermissionError(
            f"{uri} keeps artifacts in {location}, outside of its folder; add tracking.uri={uri} "
            "to the command if that is right"
        )
