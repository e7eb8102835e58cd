"""Sweeps through optional Hydra launchers, in new processes.

Run with `pytest -m extra tests/integration/test_other_launchers.py`.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dit_lab.runs.folder import read_json
from tests.integration.fragile import (
    OWN,
    jobs_alive,
    manifest_in,
    statuses,
    sweep_in,
    sweep_of,
    tracked,
    write_module,
)

pytestmark = [pytest.mark.extra, pytest.mark.timeout(900)]

Command = Callable[..., "subprocess.CompletedProcess[str]"]

LAUNCHERS = {
    "joblib": ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
    "submitit_local": ["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5"],
    "ray": [
        "hydra/launcher=ray",
        "hydra.launcher.ray.init.address=local",  # a cluster may run on this machine
        "+hydra.launcher.ray.init.num_cpus=2",
        "+hydra.launcher.ray.init.include_dashboard=false",
    ],
}


@pytest.fixture(params=LAUNCHERS)
def train(request: pytest.FixtureRequest, tiny: list[str]) -> list[str]:
    """The command that every test types, but for its axes."""
    pytest.importorskip(f"hydra_plugins.hydra_{request.param.partition('_')[0]}_launcher")
    return [*sweep_of(tiny), *LAUNCHERS[request.param]]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path) -> Path:
    write_module(tmp_path)
    return tmp_path


def until_none_is_alive(folder: Path) -> None:
    deadline = time.monotonic() + 60
    while jobs_alive(folder):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_job_that_fails_ends_alone(folder: Path, command: Command, train: list[str]) -> None:
    done = command(*train, "objective.way=none,raise,kill")
    assert done.returncode == 1, done.stdout + done.stderr
    manifest = manifest_in(folder)
    assert statuses(folder) == ["FINISHED", "FAILED", "FAILED"]
    assert "there is no such number" in manifest["jobs"][1]["error"]
    assert manifest["jobs"][2]["error"].startswith("killed by SIGKILL")
    runs = tracked(folder)
    parent, tags = runs.pop(manifest["parent_run_id"])
    assert (parent, tags["dit_lab.jobs_failed"]) == ("FAILED", "2")
    assert {t["mlflow.parentRunId"] for _, t in runs.values()} == {manifest["parent_run_id"]}
    by_job = {tags["dit_lab.job"]: status for status, tags in runs.values()}
    assert by_job == {"0": "FINISHED", "1": "FAILED", "2": "KILLED"}

    (folder / "healed").touch()
    launcher = [text for text in train if text.lstrip("+").startswith("hydra")]
    again = command("sweep", "resume", sweep_in(folder), OWN, *launcher)
    assert again.returncode == 0, again.stdout + again.stderr
    assert [job["attempts"] for job in manifest_in(folder)["jobs"]] == [1, 2, 2]
    assert {status for status, _ in tracked(folder).values()} == {"FINISHED"}


def test_stopped_jobs_save(
    folder: Path, start: Any, command: Command, train: list[str], wait_for_step: Any
) -> None:
    (folder / "healed").touch()
    process = start(*train, "seed=0,1", "training.total_steps=2000", "tracking=none")
    wait_for_step(folder, 20, process)
    process.send_signal(signal.SIGTERM)
    process.wait()
    assert process.returncode == 143
    assert "go on with: dit-lab sweep resume" in process.stdout.read()
    until_none_is_alive(folder)
    assert set(statuses(folder)) <= {"KILLED", "PENDING"}
    assert "KILLED" in statuses(folder)


def test_jobs_save_when_the_sweep_is_killed(
    folder: Path, start: Any, train: list[str], wait_for_step: Any
) -> None:
    (folder / "healed").touch()
    process = start(*train, "seed=0,1", "training.total_steps=2000", "tracking=none")
    wait_for_step(folder, 20, process)
    process.kill()
    until_none_is_alive(folder)
    found = [read_json(path) for path in folder.glob("outputs/runs/*/*/status.json")]
    assert {(status["status"], status["error"]) for status in found} == {("KILLED", None)}


def test_a_launcher_that_does_not_start_says_why(
    folder: Path, command: Command, tiny: list[str]
) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    wrong = ["hydra/launcher=joblib", "hydra.launcher.prefer=nothing"]
    done = command(*sweep_of(tiny), "seed=0,1", *wrong, "tracking=none")
    assert done.returncode == 1
    assert statuses(folder) == ["FAILED", "FAILED"]
    log = Path(sweep_in(folder)) / "launcher.log"
    assert f"was not started; {log} says why" in done.stdout
    assert "prefer=" in log.read_text()
