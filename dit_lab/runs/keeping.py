"""Disk usage of runs; atomic removal of checkpoints and run folders. Torch-free."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dit_lab.core.errors import RequestError
from dit_lab.core.files import remove_folder
from dit_lab.runs.folder import RunFolder, read_status, step_of, steps_in

GOING = ".removing-"
"""Prefix of the name of a folder whose removal has begun."""

MEGABYTE = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """Summary of a run for a listing."""

    run: str  # NAME/HASH
    status: str  # "?" if unknown
    step: int
    bytes: int
    updated: float  # seconds since the epoch, 0 if unknown
    path: str


def runs_below(root: Path) -> list[RunFolder]:
    """Return every run below `paths.root`, with or without a status file."""
    found = {file.parent for name in ("config.yaml", "status.json")
             for file in root.glob(f"runs/*/*/{name}")}  # fmt: skip
    return [RunFolder(path) for path in sorted(found) if not path.name.startswith(".")]


def name_of(folder: RunFolder) -> str:
    """Return `NAME/HASH`."""
    return "/".join(folder.root.absolute().parts[-2:])


def listed(folder: RunFolder) -> Listed:
    """Return the summary of a run; a damaged status counts as unknown."""
    found = {}
    with suppress(RequestError):
        found = read_status(folder)
    return Listed(
        run=name_of(folder),
        status=found.get("status", "?"),
        step=found.get("step", 0),
        bytes=size_of([folder.root]),
        updated=found.get("updated", 0.0),
        path=str(folder.root),
    )


def size_of(folders: Iterable[Path]) -> int:
    """Return the bytes of all files below the folders; hard links to one file count once."""
    return sum({(s.st_dev, s.st_ino): s.st_size for s in _files(folders)}.values())


def freed_by(folders: Iterable[Path]) -> int:
    """Return the bytes that removing the folders frees.

    Files with hard links elsewhere, such as in a run that extends this one, free nothing.
    """
    names: dict[tuple[int, int], int] = {}
    found = {}
    for stat in _files(folders):
        key = (stat.st_dev, stat.st_ino)
        names[key], found[key] = names.get(key, 0) + 1, stat
    return sum(stat.st_size for key, stat in found.items() if stat.st_nlink <= names[key])


def _files(folders: Iterable[Path]) -> Iterator[os.stat_result]:
    for folder in folders:
        for place, _, names in os.walk(folder):
            for name in names:
                with suppress(OSError):  # removed in the meantime
                    yield os.lstat(os.path.join(place, name))


def superfluous(
    folder: RunFolder, *, keep: int, keep_every_steps: int = 0, wanted: Iterable[Path] = ()
) -> list[Path]:
    """Return the complete checkpoints that may be removed, oldest first.

    Not among them are the newest `keep`, those whose step is a multiple of `keep_every_steps`, and
    those that contain a `wanted` path.
    """
    stay = {Path(os.path.realpath(path)) for path in wanted}

    def is_kept(checkpoint: Path) -> bool:
        place = Path(os.path.realpath(checkpoint))
        often = bool(keep_every_steps) and step_of(checkpoint) % keep_every_steps == 0
        return often or any(path.is_relative_to(place) for path in stay)

    return [path for path in complete_in(folder)[:-keep] if not is_kept(path)]


def complete_in(folder: RunFolder) -> list[Path]:
    """Return the complete checkpoints, oldest first."""
    return [path for path in steps_in(folder.checkpoints) if (path / "COMPLETE").is_file()]


def remove_whole(folder: Path) -> None:
    """Remove a checkpoint, run or sweep; if interrupted, no partial folder keeps its name.

    Of a symbolic link only the link is removed. Raises OSError.
    """
    if folder.is_symlink():
        folder.unlink()
        return
    going = folder.with_name(f"{GOING}{folder.name}")
    remove_folder(going)  # left by an interrupted removal
    os.replace(folder, going)
    for name in ("config.yaml", "status.json", "manifest.json"):
        (going / name).unlink(missing_ok=True)  # without them it is not taken for a run or sweep
    shutil.rmtree(going)
