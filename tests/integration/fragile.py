"""An objective that fails on request, and checks of sweeps after failures."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import Any

MODULE = '''
"""Rectified flow that gets into trouble at step 15, unless the file `healed` is there."""

import os
import re
import resource
import signal
import time
from pathlib import Path

from dit_lab.evaluation.metrics import two_sample
from dit_lab.objectives.rectified_flow import RectifiedFlow

two_sample.TREES = 3  # what is measured does not matter here, and takes no time
STARTED = time.time()


def wait_for_checkpoint():
    """Until a thread has written the one of step 10: what resumes must not depend on its speed."""
    for lease in Path("outputs/runs").rglob("lease"):
        if f'"pid": {os.getpid()},' in lease.read_text():
            marker = lease.parent / "checkpoints/step-00000010/COMPLETE"
            while not marker.exists():
                time.sleep(0.01)
            return
    raise FileNotFoundError("no run folder of this process")


class Fragile(RectifiedFlow):
    samplers = ("euler",)

    def __init__(self, *, way: str = "none") -> None:
        super().__init__()
        self.way, self.steps = way, 0

    def loss(self, predict, batch):
        self.steps += 1
        while Path("busy").exists():
            time.sleep(0.01)
        place = f"{os.environ.get('CUDA_VISIBLE_DEVICES')} {STARTED} {time.time()}"
        Path(f"seen-{os.getpid()}").write_text(place)
        if self.steps == 15 and not Path("healed").exists():
            self.fail()
        return super().loss(predict, batch)

    def fail(self):
        wait_for_checkpoint()
        if self.way == "once":
            Path("healed").touch()
            raise ArithmeticError("not at the first try")
        if self.way == "raise":
            raise ArithmeticError("there is no such number")
        if self.way == "exit":
            os._exit(3)
        if self.way == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.way == "memory":
            resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
            bytearray(2**33)
'''
WAYS = ("none", "raise", "exit", "kill", "memory", "other")


OWN = "trusted_modules=[fragile]"
"""What a command says that trains it, or goes on with a sweep of it."""


def write_module(folder: Path) -> None:
    (folder / "fragile.py").write_text(MODULE)
    (folder / "conf/objective").mkdir(parents=True)
    (folder / "conf/objective/fragile.yaml").write_text("_target_: fragile.Fragile\n")


def sweep_of(tiny: list[str]) -> list[str]:
    """The command that tests of sweeps type, but for its axes."""
    kept = [text for text in tiny if not text.startswith("objective=")]
    return ["train", "-m", *kept, "objective=fragile", OWN]


def manifest_in(folder: Path) -> dict[str, Any]:
    """Of the only sweep there."""
    (path,) = folder.glob("outputs/sweeps/*/manifest.json")
    return json.loads(path.read_text())


def sweep_in(folder: Path) -> str:
    (path,) = folder.glob("outputs/sweeps/*")
    return str(path)


def statuses(folder: Path) -> list[str]:
    return [job["status"] for job in manifest_in(folder)["jobs"]]


def tracked(folder: Path) -> dict[str, tuple[str, dict[str, str]]]:
    """Run id -> (status, tags), as the store says."""
    with sqlite3.connect(folder / "outputs/mlflow.db") as store:
        runs = store.execute("select run_uuid, status from runs").fetchall()
        tags = store.execute("select run_uuid, key, value from tags").fetchall()
    return {
        run_id: (status, {key: value for owner, key, value in tags if owner == run_id})
        for run_id, status in runs
    }


def jobs_alive(folder: Path) -> list[int]:
    """Processes of jobs of a sweep in the folder: what they print goes there."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if os.readlink(process / "fd/1").startswith(f"{folder}/outputs/sweeps/"):
                found.append(int(process.name))
    return found
