"""Runs that exited without cleanup still say RUNNING: find them, and say KILLED. Torch-free."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dit_lab.config.yaml_files import read_config
from dit_lab.core.errors import RequestError
from dit_lab.core.files import may_write
from dit_lab.runs.finding import all_runs
from dit_lab.runs.folder import KILLED, RUNNING, RunFolder, read_status, update_status
from dit_lab.runs.lock import Lease, holder_of
from dit_lab.tracking.late import settle

NOT_OURS = "left alone: this user cannot write to it"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What the doctor found of one run and did about it."""

    folder: RunFolder
    status: str  # now
    step: int
    remark: str


def examine(root: Path) -> Iterator[Diagnosis]:
    """Every run below `paths.root`, one by one; those without a writer are closed.

    A run whose writer lives is left alone: on this host the lease's lock decides, on another the
    heartbeat, never the process number.
    """
    for folder in all_runs(root):
        yield _examine(folder)


def _examine(folder: RunFolder) -> Diagnosis:
    try:
        found = read_status(folder)
        if found["status"] == RUNNING and (holder := holder_of(folder.lease)):
            return Diagnosis(folder, RUNNING, found["step"], str(holder))
        if not (may_write(folder.root) and may_write(folder.lease)):
            return Diagnosis(folder, found["status"], found["step"], NOT_OURS)
        return close_run(folder)
    except (RequestError, KeyError, OSError) as trouble:
        return Diagnosis(folder, "?", 0, str(trouble) or type(trouble).__name__)


def close_run(folder: RunFolder) -> Diagnosis:
    """Say how a run ended that nobody writes to, here and in its tracker; RequestError where
    somebody does, or where it has no whole status."""
    with Lease(folder.lease):
        return _close(folder)


def _close(folder: RunFolder) -> Diagnosis:
    found, remark = read_status(folder), ""
    if found["status"] == RUNNING:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(found["updated"]))
        remark = f"exited without cleanup; last heard of at {since}"
        found = update_status(folder, status=KILLED, error=remark)
    config, told = read_config(folder), ""
    if config["tracking"]["backend"] == "mlflow":
        told = settle(folder, config)
    return Diagnosis(
        folder, found["status"], found["step"], "; ".join(filter(None, [remark, told]))
    )
