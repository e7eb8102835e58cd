"""MLflow's client, whose files go where this command writes. Imports MLflow: more than a second."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from mlflow import MlflowClient

from dit_lab.core import trust


class Client(MlflowClient):
    """A client with nothing global about it: no active run, no MLFLOW_* variable decides for it.

    A database below `paths.root` may have been made by somebody else, and says where artifacts go.
    Unless the command names it, they go below the folder in which it lies, or nowhere.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._checked: set[str] = set()
        address = trust.with_password(uri)
        super().__init__(tracking_uri=address, registry_uri=address)

    def log_artifact(self, run_id: str, local_path: str, artifact_path: str | None = None) -> None:
        self._refuse_elsewhere(run_id)
        super().log_artifact(run_id, local_path, artifact_path)

    def log_text(self, run_id: str, text: str, artifact_file: str) -> None:
        self._refuse_elsewhere(run_id)
        super().log_text(run_id, text, artifact_file)

    def _refuse_elsewhere(self, run_id: str) -> None:
        if run_id not in self._checked:
            refuse_elsewhere(self._uri, self.get_run(run_id).info.artifact_uri)
            self._checked.add(run_id)


def refuse_elsewhere(uri: str, location: str) -> None:
    """Raise PermissionError where a database says that artifacts lie outside of its folder."""
    if trust.is_named(uri) or not uri.startswith("sqlite:"):
        return
    root, place = trust.sqlite_path(uri).parent.resolve(), urlsplit(location)
    inside = Path(unquote(place.path)).resolve().is_relative_to(root)
    if place.scheme not in ("", "file") or not inside:
        raise PermissionError(
            f"{uri} keeps artifacts in {location}, outside of its folder; add tracking.uri={uri} "
            "to the command if that is right"
        )
