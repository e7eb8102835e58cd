"""Places that cannot be written to, or where something is already. Torch-free."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dit_lab.core.errors import RequestError


def check_root(config: Mapping[str, Any]) -> None:
    """Refuse a paths.root that cannot be written to or lies among the data."""
    root, data = config["paths"]["root"], config["dataset"].get("root")
    if data and Path(root).is_relative_to(data):
        raise RequestError(
            f"paths.root={root}: lies inside dataset.root={data}, so results would count as data; "
            "choose another"
        )
    check_writable("paths.root", Path(root))


def check_writable(key: str, path: Path) -> None:
    """Refuse a folder that cannot be written to, by trying. Leaves nothing behind."""
    existing = next(parent for parent in (path, *path.parents) if parent.exists())
    if not existing.is_dir():
        raise RequestError(f"{key}={path}: {existing} is a file; choose a folder")
    try:
        with tempfile.TemporaryDirectory(dir=existing, prefix=".dit-lab-"):
            pass
    except OSError as error:
        raise RequestError(
            f"{key}={path}: cannot write in {existing} ({error.strerror}); choose another"
        ) from None


def check_new(what: str, out: Path) -> None:
    """Refuse a path where something is already, or where nothing can be made; `what` it was given
    as, such as "--out "."""
    if out.exists():
        raise RequestError(f"{what}{out}: exists already; choose another name, or move it away")
    check_parent(what, out)


def check_parent(what: str, out: Path) -> None:
    """Refuse a file in a folder that does not exist or cannot be written to."""
    parent = out.absolute().parent
    if not parent.is_dir():
        raise RequestError(f"{what}{out}: the folder {parent} does not exist; create it first")
    if not os.access(parent, os.W_OK):
        raise RequestError(f"{what}{out}: no right to write in {parent}; choose another place")
