"""References to a run by other runs and sweeps: as weak model, as initial weights, as a job.

A config refers to a run if the value of any key is the run's path, a path inside it, or its id in
the tracker. Only configs whose text contains the run's hash or id are parsed. Torch-free.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dit_lab.config.yaml_files import read_yaml
from dit_lab.core.errors import RequestError
from dit_lab.core.files import read_within
from dit_lab.runs.folder import RunFolder, flatten, read_json, read_status
from dit_lab.runs.keeping import name_of, runs_below
from dit_lab.runs.manifest import all_sweeps

OWN = ("paths.", "tracking.", "name")
"""Keys that name a run's own folder and tracker, and are no references to other runs."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A reference of a run or sweep to another run."""

    by: Path  # the folder of the referring run or sweep
    told: str  # such as `runs/NAME/HASH (guidance.weak_run)`
    path: Path  # the run referred to, or a checkpoint or file in it


class References:
    """The configs of all runs and sweeps below some roots, parsed only when needed."""

    def __init__(self, roots: Iterable[Path]) -> None:
        self._runs: list[tuple[RunFolder, bytes]] = []
        self._jobs: list[tuple[Path, Path, bytes]] = []  # sweep, file of it, content of the file
        for root in dict.fromkeys(path.resolve() for path in roots):
            for run in runs_below(root):
                self._runs.append((run, _content(run.config)))
            for sweep in all_sweeps(root):
                files = [sweep.manifest, *sorted(sweep.root.glob("jobs/*/config.json"))]
                self._jobs += [(sweep.root, file, _content(file)) for file in files]

    def to(self, folder: RunFolder) -> list[Reference]:
        """Return all references to a run, without duplicates, those of runs first."""
        root = Path(os.path.realpath(folder.root))
        marks = [root.name.encode()]
        tracked = None
        with suppress(RequestError):
            tracked = read_status(folder).get("tracking_run_id")
        if tracked:
            marks.append(tracked.encode())
        found: dict[tuple[Path, Path], Reference] = {}
        for run, text in self._runs:
            if os.path.realpath(run.root) == str(root) or not any(m in text for m in marks):
                continue
            with suppress(RequestError):
                for key, path in _named(read_yaml(run.config), root, tracked):
                    told = f"runs/{name_of(run)} ({key})"
                    found.setdefault((run.root, path), Reference(run.root, told, path))
        for sweep, file, text in self._jobs:
            if any(mark in text for mark in marks):
                for key, path in _named_by_sweep(sweep, file, root, tracked):
                    told = f"sweeps/{sweep.name} ({key})"
                    found.setdefault((sweep, path), Reference(sweep, told, path))
        return list(found.values())


def _content(file: Path) -> bytes:
    with suppress(OSError, RequestError):
        return read_within(file)
    return b""


def _named(tree: Mapping[str, Any], root: Path, tracked: str | None) -> Iterator[tuple[str, Path]]:
    """Yield the keys whose value is the run's id, its path or a path inside it, and that path."""
    for key, value in flatten(tree):
        if not isinstance(value, str) or key.startswith(OWN):
            continue
        text = value.removeprefix("force:")
        if tracked is not None and text == tracked:
            yield key, root
        elif text.startswith("/") and (path := Path(os.path.realpath(text))).is_relative_to(root):
            yield key, path


def _named_by_sweep(
    sweep: Path, file: Path, root: Path, tracked: str | None
) -> Iterator[tuple[str, Path]]:
    with suppress(RequestError):
        content = read_json(file)
        if file.name != "manifest.json":
            yield from _named(content, root, tracked)
            return
        for job in content.get("jobs", ()):
            run = sweep.parents[1] / str(job.get("run")) if isinstance(job, dict) else None
            if run is not None and os.path.realpath(run) == str(root):
                yield f"job {job.get('number')}", root
                return
