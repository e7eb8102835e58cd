"""Repair of the status of runs that exited without cleanup. Torch-free.

Their status is still RUNNING; it becomes KILLED.
"""

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

NOT_OURS = "not changed: this user cannot write to it"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The status of one run after the repair, and a remark about it."""

    folder: RunFolder
    status: str
    step: int
    remark: str


def examine(root: Path) -> Iterator[Diagnosis]:
    """Repair every run below `paths.root` that no process writes to; yield the result of each.

    A run with a living writer is not changed. A writer on this host lives if it holds the lock of
    the lease, one on another host if its heartbeat is recent.
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
    """Record the end of a run that no process writes to, in its status file and its tracker.

    Raises:
        RequestError: a process writes to it, or its status is damaged.
    """
    with Lease(folder.lease):
        return _close(folder)


def _close(folder: RunFolder) -> Diagnosis:
    found, remark = read_status(folder), ""
    if found["status"] == RUNNING:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(found["updated"]))
        remark = f"exited without cleanup; last update at {since}"
        found = update_status(folder, status=KILLED, error=remark)
    config, told = read_config(folder), ""
    if config["tracking"]["backend"] == "mlflow":
        told = settle(folder, config)
    return Diagnosis(
        folder, found["status"], found["step"], "; ".join(filter(None, [remark, told]))
    )
