"""Correct the status of runs and sweeps that exited without cleanup, from RUNNING to KILLED.

  dit-lab doctor                       runs and sweeps below outputs/
  dit-lab doctor paths.root=FOLDER
  dit-lab doctor tracking.uri=ADDRESS  also update those that are tracked there

Runs that a living process writes to are not changed. A process on this host is recognised by its
lock, one on another host by its heartbeat. MLflow gets the metrics, files and status that it lacks,
and runs and sweeps that are missing altogether.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from dit_lab.actions.doctor import examine
from dit_lab.config.compose import root_option
from dit_lab.core import trust
from dit_lab.core.errors import RequestError
from dit_lab.core.files import Denied, denied
from dit_lab.core.text import counted, say
from dit_lab.runs.folder import FINISHED
from dit_lab.runs.manifest import all_sweeps
from dit_lab.sweeps.run import close_stale


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("overrides", nargs="*", metavar="paths.root=FOLDER")


def run(args: argparse.Namespace) -> int:
    unknown = [t for t in args.overrides if not t.startswith(("paths.root=", "tracking.uri="))]
    if unknown:
        raise RequestError(
            f"{unknown[0]}: dit-lab doctor takes only paths.root=FOLDER and tracking.uri=ADDRESS"
        )
    root = root_option(args.overrides).absolute()
    try:
        holds_runs = (root / "runs").is_dir() or (root / "sweeps").is_dir()
    except PermissionError as error:
        raise Denied(f"paths.root={root}: {denied(Path(error.filename))}") from None
    if not holds_runs:
        raise RequestError(f"paths.root={root}: holds no runs; give the folder that does")
    trust.trust_own_store(root)
    for found in examine(root):
        place = found.folder.root.relative_to(root)
        say(f"{found.status:<9} step {found.step:>8,}  {place}  {found.remark}".rstrip())
    for folder in all_sweeps(root):
        try:
            manifest, remark = close_stale(folder)
            done = f"{manifest.counts().get(FINISHED, 0)} of {counted(len(manifest.jobs), 'job')}"
            status = manifest.status
        except (RequestError, OSError) as trouble:  # the other sweeps are still examined
            status, done, remark = "?", "", str(trouble)
        say(f"{status:<9} {done:>13}  sweeps/{folder.root.name}  {remark}".rstrip())
    return 0
