"""`dit-lab train -m` with real jobs that fail in every way, are stopped and are killed.

The jobs train a user-defined objective that fails, waits and logs.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.integration.fragile import (
    OWN,
    WAYS,
    jobs_alive,
    manifest_in,
    statuses,
    sweep_in,
    sweep_of,
    tracked,
    write_module,
)

Command = Callable[..., "subprocess.CompletedProcess[str]"]
Fork = Callable[..., Any]


@pytest.fixture(scope="module")
def train(tiny: list[str]) -> list[str]:
    return sweep_of(tiny)


def files_of(folder: Path, run: str) -> dict[Path, int]:
    files = (folder / "outputs" / run).rglob("*")
    return {path: path.stat().st_mtime_ns for path in files if path.name != "lease"}


def wait_until(true: Callable[[], bool], seconds: float = 100) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# ---- jobs that fail -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mixed(
    tmp_path_factory: pytest.TempPathFactory,
    forked_in: Command,
    train: list[str],
    store_in: Callable[[Path], None],
) -> tuple[Path, Any, dict[str, Any]]:
    """Six jobs in two places, of which four fail; the manifest as it was then."""
    folder = tmp_path_factory.mktemp("mixed")
    write_module(folder)
    store_in(folder)
    done = forked_in(
        folder, *train, f"objective.way={','.join(WAYS)}", "sweep.slots=[7,8]", "seed=0"
    )
    return folder, done, manifest_in(folder)


def test_a_job_that_fails_ends_alone(mixed: Any) -> None:
    _, done, manifest = mixed
    assert done.returncode == 1, done.stderr
    assert [job["status"] for job in manifest["jobs"]] == [
        "FINISHED", *["FAILED"] * 4, "FINISHED"
    ]  # fmt: skip
    errors = [job["error"] for job in manifest["jobs"]]
    assert errors[0] is errors[5] is None
    assert errors[1].startswith("failed: ArithmeticError: there is no such number (traceback in ")
    assert errors[2] == "ended with exit code 3"
    assert errors[3] == "killed by SIGKILL (out of memory?)"
    assert errors[4].startswith("failed: MemoryError")
    assert "not all jobs finished; try them again with: dit-lab sweep resume " in done.stdout


def test_one_job_at_a_time_has_a_place(mixed: Any) -> None:
    folder = mixed[0]
    by_place: dict[str, list[tuple[float, float]]] = {}
    for note in folder.glob("seen-*"):
        place, start, end = note.read_text().split()
        by_place.setdefault(place, []).append((float(start), float(end)))
    assert by_place.keys() == {"7", "8"}
    for spans in by_place.values():
        spans.sort()
        assert all(one[1] < other[0] for one, other in pairwise(spans))


def test_the_store_tells_the_same(mixed: Any) -> None:
    folder, _, manifest = mixed
    runs = tracked(folder)
    parent_status, parent = runs.pop(manifest["parent_run_id"])
    assert parent_status == "FAILED"
    (name,) = (folder / "outputs/sweeps").iterdir()
    axes = " ".join(f"{key}={','.join(values)}" for key, values in manifest["axes"].items())
    assert parent["mlflow.runName"] == f"{axes} ({name.name})"
    assert (parent["dit_lab.jobs_finished"], parent["dit_lab.jobs_failed"]) == ("2", "4")
    assert runs.keys() == {job["run_id"] for job in manifest["jobs"]}
    for job in manifest["jobs"]:
        status, tags = runs[job["run_id"]]
        killed = job["number"] in (2, 3)  # they could not say so; the sweep closed them
        expected = "FINISHED" if job["number"] in (0, 5) else "KILLED" if killed else "FAILED"
        assert status == expected
        assert tags["mlflow.parentRunId"] == manifest["parent_run_id"]
        assert tags["dit_lab.job"] == str(job["number"])
        assert tags["dit_lab.overrides"] == " ".join(job["overrides"])


@pytest.mark.slow
def test_resume_runs_what_failed(mixed: Any, forked_in: Command) -> None:
    folder, _, before = mixed
    (folder / "healed").touch()
    finished = [files_of(folder, before["jobs"][number]["run"]) for number in (0, 5)]
    sweep = sweep_in(folder)
    missing = forked_in(folder, "sweep", "resume", sweep, OWN, "--only", "missing")
    assert missing.returncode == 1  # there are none, and the others have not finished
    assert manifest_in(folder)["jobs"] == before["jobs"]
    done = forked_in(folder, "sweep", "resume", sweep, OWN)
    assert done.returncode == 0, done.stdout + done.stderr
    after = manifest_in(folder)
    assert statuses(folder) == ["FINISHED"] * 6
    assert [job["attempts"] for job in after["jobs"]] == [1, 2, 2, 2, 2, 1]
    assert [files_of(folder, before["jobs"][number]["run"]) for number in (0, 5)] == finished
    runs = tracked(folder)
    assert {status for status, _ in runs.values()} == {"FINISHED"}
    assert len(runs) == 7
    assert after["parent_run_id"] == before["parent_run_id"]
    tags = runs[after["parent_run_id"]][1]
    counts = {key: text for key, text in tags.items() if key.startswith("dit_lab.jobs")}
    assert counts == {"dit_lab.jobs": "6", "dit_lab.jobs_finished": "6"}  # none of the end before
    for output in Path(sweep).glob("jobs/*/output.log"):  # they did not begin again
        assert ("resumed at step 10" in output.read_text()) == (
            output.parent.name[:2] not in ("00", "05")
        )
    kept = folder / "outputs/mlartifacts" / after["parent_run_id"] / "artifacts/report"
    assert {path.name for path in kept.iterdir()} >= {"report.html", "report.md", "report.csv"}
    report = forked_in(folder, "report", Path(sweep).name, "report.baseline=objective.way=exit")
    assert report.returncode == 0, report.stderr
    assert "the baseline objective.way=exit has 1 measured seed" in report.stdout
    assert "report.html" in report.stdout
    again = forked_in(folder, "sweep", "resume", sweep, OWN)
    assert again.returncode == 0
    assert "already finished" in again.stdout


@pytest.mark.slow
def test_a_failed_job_is_tried_again(folder: Path, forked: Command, train: list[str]) -> None:
    axis = "objective.way=once,none"
    done = forked(*train, axis, "tracking=none", "sweep.retries=1", "sweep.slots=[cpu]")
    assert done.returncode == 0, done.stdout + done.stderr
    jobs = manifest_in(folder)["jobs"]
    assert [job["attempts"] for job in jobs] == [2, 1]
    assert [job["error"] for job in jobs] == [None, None]


@pytest.mark.slow
def test_no_further_job_is_started_once_one_has_failed(
    folder: Path, forked: Command, train: list[str]
) -> None:
    done = forked(*train, "objective.way=raise,none", "tracking=none", "sweep.on_failure=stop")
    assert done.returncode == 1
    assert statuses(folder) == ["FAILED", "PENDING"]
    assert manifest_in(folder)["status"] == "FAILED"
    rest = forked("sweep", "resume", sweep_in(folder), OWN, "--only", "missing")
    assert rest.returncode == 1
    assert statuses(folder) == ["FAILED", "FINISHED"]  # what failed before holds up nothing


# ---- a sweep that is stopped --------------------------------------------------------------------


def check_whole(folder: Path, jobs: int) -> None:
    """Every job has finished, and the store has each run once."""
    assert statuses(folder) == ["FINISHED"] * jobs
    runs = tracked(folder)
    assert sorted(status for status, _ in runs.values()) == ["FINISHED"] * (jobs + 1)
    parents = {tags["mlflow.parentRunId"] for _, tags in runs.values() if "dit_lab.job" in tags}
    assert parents == {manifest_in(folder)["parent_run_id"]}


@pytest.mark.slow
def test_killed_and_resumed(
    folder: Path, fork: Fork, forked: Command, train: list[str], wait_for_step: Any
) -> None:
    """The jobs of a sweep that is gone save and end; `resume` has all of them finished."""
    process = fork(*train, "seed=0,1")
    wait_for_step(folder, 20, process)
    (folder / "busy").touch()  # here, so that the job is in the middle of something
    process.kill()
    assert jobs_alive(folder)
    (folder / "busy").unlink()
    wait_until(lambda: not jobs_alive(folder))
    assert manifest_in(folder)["status"] == "RUNNING"  # nobody could say otherwise
    found = forked("doctor").stdout.splitlines()[-1]
    assert re.match(r"KILLED +0 of 2 jobs  sweeps/", found)
    assert statuses(folder) == ["KILLED", "PENDING"]
    assert tracked(folder)[manifest_in(folder)["parent_run_id"]][0] == "KILLED"
    done = forked("sweep", "resume", sweep_in(folder), OWN)
    assert done.returncode == 0, done.stdout + done.stderr
    check_whole(folder, 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    "number",
    [
        signal.SIGINT,
        signal.SIGTERM,
    ],
)
def test_stopped_and_resumed(
    folder: Path, fork: Fork, forked: Command, train: list[str], wait_for_step: Any, number: int
) -> None:
    process = fork(*train, "seed=0,1")
    wait_for_step(folder, 20, process)
    process.send_signal(number)
    stopped = process.wait()
    assert stopped.returncode == 128 + number
    assert jobs_alive(folder) == []
    assert f"go on with: dit-lab sweep resume {sweep_in(folder)}" in stopped.stdout
    assert statuses(folder) == ["KILLED", "PENDING"]
    assert manifest_in(folder)["status"] == "KILLED"
    done = forked(*train, "seed=0,1")  # the same command goes on as well
    assert done.returncode == 0, done.stdout + done.stderr
    assert "resuming it" in done.stdout
    check_whole(folder, 2)


# ---- what is trained and measured ---------------------------------------------------------------


@pytest.mark.slow
def test_equal_weights_are_trained_once_and_measured_each(
    folder: Path, forked: Command, train: list[str]
) -> None:
    done = forked(*train, "sampler.steps=1,2", "evaluation.num_images=30")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "jobs 0 and 1: the same weights, trained once and evaluated for each job" in done.stdout
    one, other = manifest_in(folder)["jobs"]
    assert one["run"] == other["run"]
    assert one["run_id"] != other["run_id"]
    sweep = Path(sweep_in(folder))
    measured = [
        json.loads((path.parent / "run/evaluations" / name).read_text())
        for path in sorted(sweep.glob("jobs/*/result.json"))
        if (name := json.loads(path.read_text())["evaluation"])
    ]
    assert [found["card"]["sampler"]["steps"] for found in measured] == [1, 2]
    assert len(list((folder / "outputs" / one["run"] / "evaluations").iterdir())) == 2
    runs = tracked(folder)
    assert len(runs) == 3
    assert {tags.get("dit_lab.job") for _, tags in runs.values()} == {None, "0", "1"}
    outputs = [path.read_text() for path in sorted(sweep.glob("jobs/*/output.log"))]
    assert ["already finished" in text for text in outputs] == [False, True]


@pytest.mark.slow
def test_resume_never_trains_anew(folder: Path, forked: Command, train: list[str]) -> None:
    command = [*train, "seed=0,1", "tracking=none", "training.total_steps=2"]
    assert forked(*command).returncode == 0
    assert "already finished" in forked(*command).stdout
    assert forked(*command, "resume=never").returncode == 0
    assert len(list(folder.glob("outputs/sweeps/*"))) == 2
    assert len(list(folder.glob("outputs/runs/tiny/*.before-*"))) == 2


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_eight_jobs_at_once_on_an_empty_store(
    tmp_path: Path, command: Command, tiny: list[str]
) -> None:
    done = command("train", "-m", *tiny, "seed=range(8)", "sweep.jobs_per_slot=8")
    assert done.returncode == 0, done.stdout + done.stderr
    assert statuses(tmp_path) == ["FINISHED"] * 8
    runs = tracked(tmp_path)
    assert [status for status, _ in runs.values()] == ["FINISHED"] * 9
    parent = manifest_in(tmp_path)["parent_run_id"]
    assert [tags.get("mlflow.parentRunId") for _, tags in runs.values()].count(parent) == 8


def test_a_launcher_of_processes_is_told_the_right_command(
    tmp_path: Path, train: list[str]
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dit_lab", *train[:2], "seed=0,1"],
        cwd=tmp_path,
        env={**os.environ, "WORLD_SIZE": "2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "dit-lab train -m seed=0,1 distributed.num_processes=2" in done.stderr
