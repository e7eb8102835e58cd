"""Errors of listing, pruning and removing runs."""

from __future__ import annotations

import json
import time
from pathlib import Path

from tests.errors.case import Case
from tests.errors.starts import all_of, only_run, only_sweep, write


def holder(pid: int = 1) -> str:
    """A lease that somebody on another host holds."""
    now = time.time()
    found = {"host": "far-away", "pid": pid, "started": now, "heartbeat": now, "stopping": False}
    return json.dumps(found)


def held_elsewhere(folder: Path) -> None:
    write(only_run(folder) / "lease", holder())


def job_held_elsewhere(folder: Path) -> None:
    job = min(only_sweep(folder).glob("jobs/*"))
    write(job / "lease", holder())


def second(folder: Path) -> None:
    """Another run of the same name, whose hash begins alike."""
    run = only_run(folder)
    write(run.with_name(f"{run.name[:6]}ffffff") / "config.yaml", (run / "config.yaml").read_text())


def weak(folder: Path) -> None:
    """Another run that is guided away from the first."""
    run = only_run(folder)
    config = (run / "config.yaml").read_text()
    assert "weak_run: null" in config
    other = config.replace("weak_run: null", f"weak_run: {run}/checkpoints/step-00000002")
    write("outputs/runs/guided/0123456789ab/config.yaml", other, folder)


def file_of_a_run(folder: Path) -> None:
    from dit_lab.config.yaml_files import read_yaml
    from tests.records import HEADER, write_header

    config = read_yaml(only_run(folder) / "config.yaml")
    write_header(folder / "model.safetensors", {**HEADER, "config": config})


# fmt: off
CASES = (
    Case("a list of runs where there are none", "runs list",
         "paths.root=FOLDER/outputs: holds no runs; give the folder that does"),
    Case("an option of another action of runs", "runs list --keep 3",
         "--keep: is for dit-lab runs prune, not list", start="tiny"),
    Case("a list that changes nothing", "runs list --dry-run",
         "--dry-run: list changes nothing; leave it out", start="tiny"),
    Case("no checkpoint is to stay", "runs prune RUN --keep 0",
         "--keep 0: give 1 or more; `remove` removes whole runs", start="tiny"),
    Case("no run is named to be removed", "runs remove",
         "dit-lab runs remove: give a RUN, a SWEEP or a pattern such as 'photos/", start="tiny"),
    Case("a pattern of no run", "runs prune 'photos/*'",
         r"photos/\*: matches no run below FOLDER/outputs/runs", start="tiny"),
    Case("a run that is not there is removed", "runs remove photos",
         "photos: no sweep and no run; give a folder below FOLDER/outputs/sweeps", start="tiny"),
    Case("a name that means two runs", "runs remove tiny",
         "tiny: means 2 runs (tiny/HASH, tiny/HASH); name one of them, or give a pattern"
         .replace("(", r"\(").replace(")", r"\)"), start="tiny", prepare=second),
    Case("a folder of two runs", "runs remove outputs/runs/tiny",
         "outputs/runs/tiny: means 2 runs .*; name one of them, or give a pattern",
         start="tiny", prepare=second),
    Case("a run that another needs is removed", "runs remove RUN",
         r"tiny/HASH: is needed by runs/guided/HASH \(guidance.weak_run\); leave it out, or give "
         "--force", start="tiny", prepare=weak),
    Case("a run that is held is removed", "runs remove RUN --force",
         "outputs/runs/tiny/HASH: process PID on HOST has been writing here since TIME.*; stop it, "
         "or leave it out", start="tiny", prepare=held_elsewhere),
    Case("a sweep of which a job is held is removed", "runs remove SWEEP",
         "job 0 is running; stop it, or leave it out", start="swept", prepare=job_held_elsewhere),
    Case("a file that was exported is removed", "runs remove model.safetensors",
         "FOLDER/model.safetensors: is an exported file; delete it as other files", start="tiny",
         prepare=all_of(file_of_a_run)),
)
