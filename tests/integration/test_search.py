"""`dit-lab train -m hydra/sweeper=optuna`: proposed jobs, with runs like those of any sweep."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.fragile import manifest_in, sweep_in, sweep_of, tracked

pytestmark = pytest.mark.slow

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def train(tiny: list[str]) -> list[str]:
    return [*sweep_of(tiny), "hydra/sweeper=optuna"]


def jobs_in(folder: Path) -> dict[str, dict[str, Any]]:
    """The objective's way -> the job."""
    jobs = manifest_in(folder)["jobs"]
    return {job["overrides"][0].partition("=")[2]: job for job in jobs}


def test_a_trial_that_fails_is_marked_and_ends_nothing(
    folder: Path, forked: Command, train: list[str]
) -> None:
    train = [*train, "objective.way=none,raise,other", "sweep.trials=5", "sweep.trials_at_once=2"]
    done = forked(*train)
    assert done.returncode == 1, done.stderr
    jobs, manifest = jobs_in(folder), manifest_in(folder)
    assert {way: job["status"] for way, job in jobs.items()} == {
        "none": "FINISHED",
        "raise": "FAILED",
        "other": "FINISHED",
    }  # three of five: there are no others
    assert manifest["settings"]["metric"] == "eval/loss"
    assert jobs["raise"]["value"] is None
    for way in ("none", "other"):
        status = json.loads((folder / f"outputs/{jobs[way]['run']}/status.json").read_text())
        assert jobs[way]["value"] == status["results"]["eval/loss"]
    assert "best of 2: job " in done.stdout
    assert Path(sweep_in(folder), "report/report.html").exists()

    runs = tracked(folder)
    parent, tags = runs.pop(manifest["parent_run_id"])
    assert (parent, tags["dit_lab.jobs_failed"]) == ("FAILED", "1")
    assert {t["mlflow.parentRunId"] for _, t in runs.values()} == {manifest["parent_run_id"]}
    by_job = {tags["dit_lab.job"]: status for status, tags in runs.values()}
    assert by_job == {str(job["number"]): job["status"] for job in jobs.values()}

    (folder / "healed").touch()
    again = forked(*train)
    assert again.returncode == 0, again.stderr
    assert "resuming it" in again.stdout
    assert {job["status"] for job in jobs_in(folder).values()} == {"FINISHED"}
    assert [job["attempts"] for job in jobs_in(folder).values()].count(2) == 1
    assert {status for status, _ in tracked(folder).values()} == {"FINISHED"}
    assert len(tracked(folder)) == 4


def test_more_trials_go_on_with_the_same_search(
    folder: Path, forked: Command, train: list[str]
) -> None:
    train = [*train, "optimizer.lr=tag(log,interval(1e-4,1e-1))", "tracking=none",
             "training.total_steps=2", "sweep.metric=eval/loss"]  # fmt: skip
    assert forked(*train, "sweep.trials=2").returncode == 0
    first = manifest_in(folder)["jobs"]
    assert "already finished" in forked(*train, "sweep.trials=2").stdout
    assert forked(*train, "sweep.trials=3").returncode == 0
    jobs = manifest_in(folder)["jobs"]
    assert jobs[:2] == first
    assert len({job["overrides"][0] for job in jobs}) == 3


def test_a_metric_that_is_not_there_is_named(
    folder: Path, forked: Command, train: list[str]
) -> None:
    done = forked(*train, "optimizer.lr=interval(1e-4,1e-3)", "tracking=none", "sweep.trials=2",
                  "training.total_steps=2", "evaluation.num_images=10",
                  "sweep.metric=eval/recall_pixels_n7")  # fmt: skip
    assert done.returncode == 2
    wrong = "sweep.metric=eval/recall_pixels_n7: job 0 has no such metric; it has eval/loss"
    assert wrong in done.stderr
    assert manifest_in(folder)["status"] == "FAILED"
