"""Files of a run that MLflow keeps copies of: sample grids by step, and other files."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING

from dit_lab.runs.folder import STEP, RunFolder

if TYPE_CHECKING:
    from mlflow import MlflowClient

_log = logging.getLogger(__name__)

PICTURES, KEY = "images", "samples"  # MLflow's folder for images by step, and their name in it


def log_file(client: MlflowClient, run_id: str, path: Path, folder: RunFolder) -> None:
    """Copy a file of a run to the store; skip missing files and broken images with a warning.

    Sample grids are logged as images of a step, which MLflow's page shows over the steps. Other
    files keep their place in the run folder.
    """
    step = _step_of(path, folder)
    if not path.exists():
        _log.warning("%s: missing, so it is not sent to MLflow", path)
    elif step is None:
        client.log_artifact(run_id, str(path), _place(path, folder))
    else:
        from PIL import Image, UnidentifiedImageError

        try:
            with Image.open(path) as picture:
                client.log_image(run_id, picture, key=KEY, step=step)
        except UnidentifiedImageError:
            _log.warning("%s: not an image, so it is not sent to MLflow", path)


def lacking_files(client: MlflowClient, run_id: str, folder: RunFolder) -> list[Path]:
    """Return the files of a run that the store should have and lacks, or has in another size."""
    files = [path for path in (folder.config, *folder.artifacts()) if path.is_file()]
    places = {_place(path, folder) for path in files}
    found = [info for place in places for info in client.list_artifacts(run_id, place)]
    sizes = {info.path: info.file_size for info in found}
    pictures = re.findall(rf"^{PICTURES}/{KEY}\+step\+(\d+)\+", "\n".join(sizes), re.MULTILINE)

    def is_kept(path: Path) -> bool:
        if (step := _step_of(path, folder)) is not None:
            return str(step) in pictures
        return sizes.get(path.relative_to(folder.root).as_posix()) == path.stat().st_size

    return [path for path in files if not is_kept(path)]


def _step_of(path: Path, folder: RunFolder) -> int | None:
    """Return the step of a sample grid; None for other files."""
    named = STEP.fullmatch(path.stem) if path.parent == folder.samples else None
    return int(named[1]) if named else None


def _place(path: Path, folder: RunFolder) -> str | None:
    """Return the folder of a file in the store; None for its root."""
    if _step_of(path, folder) is not None:
        return PICTURES
    inside = path.is_relative_to(folder.root) and path.parent != folder.root
    return path.parent.relative_to(folder.root).as_posix() if inside else None
