"""Listing of the runs below a folder, and look-up of a run by what the user typed. Torch-free."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from dit_lab.core.errors import RequestError
from dit_lab.core.files import Denied, denied, may_write
from dit_lab.core.text import local_path, shell_line
from dit_lab.runs.exported import EXPORTED, read_exported
from dit_lab.runs.folder import RunFolder, digest, newest_checkpoint, read_status


def find_run(run: str, *, root: Path) -> tuple[RunFolder, Path | None]:
    """Return the run that `run` names, and its checkpoint if `run` is a checkpoint folder.

    If this user may only read the run, its evaluations and samples are stored below `root`.

    Args:
        run: a run folder, a checkpoint folder, an exported file, the id of a tracked run, or a
            folder with exactly one run (`outputs/runs/quickstart`). In such a folder only runs
            with a checkpoint count, unless no run has one.
        root: `paths.root`, where run ids are looked up.

    Raises:
        RequestError: there is no such run, or there are several.
    """
    try:
        folder, checkpoint = _found(run, root)
    except PermissionError as error:
        raise Denied(f"run={run}: {denied(Path(error.filename))}") from None
    if folder.is_exported or may_write(folder.evaluations):
        return folder, checkpoint
    place = f"{folder.root.name}-{digest(str(folder.root).encode())[:6]}"
    elsewhere = root.absolute() / "others" / folder.root.parent.name / place
    return replace(folder, elsewhere=elsewhere), checkpoint


def _found(run: str, root: Path) -> tuple[RunFolder, Path | None]:
    path = Path(os.path.realpath(local_path(run, "run=")))  # accepts links that form a cycle
    if path.suffix == EXPORTED and path.is_file():
        read_exported(path)
        return RunFolder(path), None
    if (path / "config.yaml").is_file():
        return RunFolder(path), None
    if path.parent.name == "checkpoints" and (path / "state.json").is_file():
        return RunFolder(path.parent.parent), path
    inside = [RunFolder(config.parent) for config in sorted(path.glob("*/config.yaml"))]
    trained = [folder for folder in inside if newest_checkpoint(folder)] or inside
    if len(trained) == 1:
        return trained[0], None
    for folder in all_runs(root):
        with suppress(RequestError):  # a damaged status cannot match the id
            if read_status(folder).get("tracking_run_id") == run:
                return folder, None
    raise RequestError(f"run={run}: {_no_run(path, trained, root)}")


def _no_run(path: Path, inside: list[RunFolder], root: Path) -> str:
    if inside:
        names = ", ".join(folder.root.name for folder in inside)
        return f"holds {len(inside)} runs ({names}); name one of them"
    if path.suffix in (".pt", ".pth", ".ckpt", ".bin") and path.is_file():
        command = shell_line("dit-lab", "import", path, "--out", "RUN")
        return f"holds weights alone; {command} makes a run"
    what = "has no config.yaml" if path.exists() else "does not exist"
    return (
        f"{what}; give a run folder ({root}/runs/NAME/HASH), one of its checkpoint "
        "folders, an exported file, or the id of a tracking run"
    )


def all_runs(root: Path) -> list[RunFolder]:
    """Return every run below `paths.root` that has a status file."""
    return [RunFolder(status.parent) for status in sorted(root.glob("runs/*/*/status.json"))]
