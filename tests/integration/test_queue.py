"""Sweeps through a queue whose jobs start late and outlive the sweep's process.

Statuses must be correct, whichever process is killed, and no job is trained twice.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dit_lab.runs.folder import read_json
from dit_lab.runs.lock import Lease, read_holder
from tests.integration import queue_launcher as queue
from tests.integration.conftest import CHILDREN_TOO
from tests.integration.fragile import (
    OWN,
    jobs_alive,
    manifest_in,
    statuses,
    sweep_in,
    sweep_of,
    write_module,
)

LAUNCHER = "hydra/launcher=queue_slurm"
IN_QUEUE = "PENDING"


@pytest.fixture(scope="module")
def train(tiny: list[str]) -> list[str]:
    axes = ["seed=0,1,2,3", "tracking=none", "training.total_steps=20"]
    return [*sweep_of(tiny), *axes, LAUNCHER]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where two jobs run at once, and train once the file `busy` is gone."""
    write_module(tmp_path)
    queue.install(tmp_path, places=2)
    for name in ("busy", "healed"):
        (tmp_path / name).touch()
    yield tmp_path
    (tmp_path / "busy").unlink(missing_ok=True)
    for job in queue.waiting_or_running(tmp_path):
        queue.cancel(tmp_path, int(job.name))
    until(lambda: not jobs_alive(tmp_path))


@pytest.fixture
def fork(fork_in: Any, folder: Path) -> Any:
    return partial(fork_in, folder, first=queue.FIRST)


@pytest.fixture
def told(fork: Any) -> Callable[..., Any]:
    return lambda *arguments: fork(*arguments).wait()


def until(true: Callable[[], Any], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def train_now(folder: Path) -> int:
    """How many jobs train, as they say themselves."""
    told = [read_json(path) for path in folder.glob("outputs/runs/*/*/status.json")]
    return sum(status["status"] == "RUNNING" for status in told)


def seen(told: Any, folder: Path) -> list[str]:
    """The statuses that `sweep status` shows to anybody."""
    shown = told("sweep", "status", sweep_in(folder)).stdout
    return re.findall("PENDING|RUNNING|FINISHED|FAILED|KILLED", shown)[:4]


def doctor(told: Any) -> str:
    """What it says of the sweep."""
    return told("doctor").stdout.splitlines()[-1]


def started(folder: Path, fork: Any, train: list[str]) -> Any:
    """A sweep with two jobs that train and two that wait."""
    process = fork(*train)
    until(lambda: train_now(folder) == 2)
    until(lambda: statuses(folder) == ["RUNNING", "RUNNING", IN_QUEUE, IN_QUEUE])
    until(lambda: len(queue.held(folder)) == 4)
    return process


def knows_to_stop(folder: Path, number: int) -> bool:
    """Whether the signal has reached the training of a job, which may else end before it does."""
    run = folder / "outputs" / manifest_in(folder)["jobs"][number]["run"]
    holder = read_holder(run / "lease")
    return holder is not None and holder.stopping


def trained_once(folder: Path) -> None:
    """Every job has finished at its first attempt."""
    assert statuses(folder) == ["FINISHED"] * 4
    manifest = manifest_in(folder)
    assert [job["attempts"] for job in manifest["jobs"]] == [1] * 4
    assert manifest["rounds"] == 1
    assert len(list(folder.glob("queue/was-*"))) == 4
    outputs = [path.read_text() for path in folder.glob("outputs/sweeps/*/jobs/*/output.log")]
    assert [output.count("result: ") for output in outputs] == [1] * 4
    assert not any("resumed" in output for output in outputs)


@pytest.mark.slow
def test_resume_waits_for_what_a_killed_sweep_left(
    folder: Path, fork: Any, told: Any, train: list[str]
) -> None:
    process = started(folder, fork, train)
    now = ["RUNNING", "RUNNING", IN_QUEUE, IN_QUEUE]
    assert seen(told, folder) == now
    process.kill()
    assert seen(told, folder) == now
    said = doctor(told)
    assert re.match(r"RUNNING +0 of 4 jobs  sweeps/\S+  its process is gone; ", said)
    left = "still running: jobs 0 and 1; in the queue: jobs 2 and 3 (to end them: scancel 0 1 2 3)"
    assert left in said
    again = fork("sweep", "resume", sweep_in(folder), OWN, LAUNCHER)
    until(lambda: f"from an earlier start, {left}; waiting for them" in again.printed())
    (folder / "busy").unlink()
    assert again.wait().returncode == 0, again.printed()
    trained_once(folder)


@pytest.mark.slow
def test_jobs_that_end_without_their_sweep(
    folder: Path, fork: Any, told: Any, train: list[str]
) -> None:
    started(folder, fork, train).kill()
    (folder / "busy").unlink()
    until(lambda: not queue.waiting_or_running(folder))
    assert seen(told, folder) == ["FINISHED"] * 4
    assert re.match(r"FINISHED +4 of 4 jobs  sweeps/\S+$", doctor(told))
    trained_once(folder)
    again = told("sweep", "resume", sweep_in(folder), OWN, LAUNCHER)
    assert "already finished" in again.stdout


@pytest.mark.slow
def test_stopped_before_any_job_starts(
    folder: Path, fork: Any, told: Any, train: list[str]
) -> None:
    """They are not said to be killed, and end without a word when they start."""
    for place in folder.glob("queue/place-*"):
        place.rename(folder / place.name)
    process = fork(*train)
    until(lambda: len(queue.held(folder)) == 4)
    process.send_signal(signal.SIGINT)
    stopped = process.wait()
    assert stopped.returncode == 130
    said = "in the queue: jobs 0 to 3 (to end them: scancel 0 1 2 3); running jobs end"
    assert said in stopped.stdout
    assert "KILLED" not in stopped.stdout
    assert seen(told, folder) == statuses(folder) == [IN_QUEUE] * 4
    assert re.match(r"KILLED +0 of 4 jobs", doctor(told))
    for place in folder.glob("place-*"):
        place.rename(folder / "queue" / place.name)
    until(lambda: not queue.waiting_or_running(folder))
    assert not list(folder.glob("outputs/runs/*/*/*"))
    assert statuses(folder) == [IN_QUEUE] * 4


@pytest.mark.slow
def test_stopped_while_jobs_train(folder: Path, fork: Any, told: Any, train: list[str]) -> None:
    """All are waited for together; those that need longer are said to run, with what ends them."""
    soon = f"""
{CHILDREN_TOO}
from dit_lab.sweeps import hydra_launcher
hydra_launcher.ENDING_SECONDS = 1.0
"""
    process = started(folder, partial(fork, first=f"{queue.FIRST}{soon}"), train)
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    stopped = process.wait()
    assert time.monotonic() - began < 10
    assert stopped.returncode == 143
    assert "still running: jobs 0 and 1; in the queue: jobs 2 and 3 (to end" in stopped.stdout
    assert "stopped; not all jobs have ended yet; go on with: dit-lab sweep" in stopped.stdout
    assert seen(told, folder)[:2] == ["RUNNING", "RUNNING"]
    (folder / "busy").unlink()
    until(lambda: not queue.waiting_or_running(folder) and not jobs_alive(folder))
    assert seen(told, folder) == ["KILLED", "KILLED", IN_QUEUE, IN_QUEUE]
    again = told("sweep", "resume", sweep_in(folder), OWN, LAUNCHER)
    assert again.returncode == 0, again.stdout
    assert statuses(folder) == ["FINISHED"] * 4
    assert [job["attempts"] for job in manifest_in(folder)["jobs"]] == [2, 2, 1, 1]


@pytest.mark.slow
def test_cancelled_in_the_queue(folder: Path, fork: Any, train: list[str]) -> None:
    process = started(folder, fork, train)
    for number in (0, 3):
        queue.cancel(folder, number)
    until(lambda: knows_to_stop(folder, 0))
    (folder / "busy").unlink()
    assert process.wait().returncode == 1
    assert statuses(folder) == ["KILLED", "FINISHED", "FINISHED", "FAILED"]
    assert manifest_in(folder)["jobs"][3]["error"].startswith("was not started; ")


@pytest.mark.slow
def test_preempted_and_put_back(folder: Path, fork: Any, train: list[str]) -> None:
    process = started(folder, fork, [*train, "training.checkpoint_every_steps=1"])
    os.kill(queue.process_of(folder, 0), signal.SIGUSR2)
    until(lambda: knows_to_stop(folder, 0))
    (folder / "busy").unlink()
    assert process.wait().returncode == 0, process.printed()
    assert statuses(folder) == ["FINISHED"] * 4
    assert [job["attempts"] for job in manifest_in(folder)["jobs"]] == [2, 1, 1, 1]


@pytest.mark.slow
def test_a_run_that_somebody_else_trains_is_waited_for(
    folder: Path, fork: Any, train: list[str]
) -> None:
    """By jobs of any launcher: it is no failure of theirs."""
    (folder / "busy").unlink()
    local = [*[text for text in train if text not in (LAUNCHER, "seed=0,1,2,3")], "seed=0,1"]
    prepared = fork(*local, "training.total_steps=1")
    assert prepared.wait().returncode == 0
    run = folder / "outputs" / manifest_in(folder)["jobs"][0]["run"]
    (run / "checkpoints").rename(folder / "moved")
    status = read_json(run / "status.json")
    assert status["status"] == "FINISHED"
    (run / "status.json").write_text('{"status": "KILLED", "step": 0, "updated": 1.0}')
    with Lease(run / "lease"):
        again = fork(*local, "training.total_steps=1", "sweep.name=other")
        until(
            lambda: any(
                "waiting for it" in path.read_text()
                for path in folder.glob("outputs/sweeps/other*/jobs/*/output.log")
            )
        )
    assert again.wait().returncode == 0, again.printed()
