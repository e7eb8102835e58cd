"""Growing sweeps: jobs that an earlier sweep has trained and evaluated are reused."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest

from dit_lab.core import trust
from dit_lab.tracking.mlflow_store import open_client
from tests.integration.fragile import sweep_of, write_module

Command = Callable[..., "subprocess.CompletedProcess[str]"]
NOTE = "One seed more, or two"
MEASURED = (
    "evaluation.num_images=30", "sweep.name=growing", "tags.topic=growth", f"note='{NOTE}'"
)  # fmt: skip


@pytest.fixture(scope="module")
def train(tiny: list[str]) -> list[str]:
    return [*sweep_of(tiny), *MEASURED, "training.total_steps=4"]


def manifests(folder: Path) -> list[dict[str, Any]]:
    """Of all sweeps, the oldest first."""
    found = [json.loads(path.read_text()) for path in folder.glob("outputs/sweeps/*/manifest.json")]
    return sorted(found, key=lambda manifest: manifest["created"])


def trainings(folder: Path) -> int:
    """How many processes have trained: the objective leaves a note for each."""
    return len(list(folder.glob("seen-*")))


def files_of(folder: Path, manifest: dict[str, Any]) -> dict[Path, int]:
    """What its runs have trained and measured, with the times of the last change."""
    return {
        path: path.stat().st_mtime_ns
        for job in manifest["jobs"]
        for path in (folder / "outputs" / job["run"]).rglob("*")
        if path.is_file() and path.name != "lease"
    }


@pytest.fixture(scope="module")
def grown(
    tmp_path_factory: pytest.TempPathFactory,
    forked_in: Command,
    train: list[str],
    store_in: Callable[[Path], None],
) -> tuple[Path, dict[Path, int], Any]:
    """A sweep of two seeds, then one of three seeds with two samplers.

    Returns what existed before, and the output of the second command.
    """
    folder = tmp_path_factory.mktemp("growing")
    write_module(folder)
    store_in(folder)
    first = forked_in(folder, *train, "seed=0,1")
    assert first.returncode == 0, first.stdout + first.stderr
    assert trainings(folder) == 2
    before = files_of(folder, manifests(folder)[0])
    done = forked_in(folder, *train, "seed=0,1,2")
    return folder, before, done


def test_what_is_there_is_neither_trained_nor_measured_again(grown: Any) -> None:
    folder, before, done = grown
    assert done.returncode == 0, done.stdout + done.stderr
    first, second = manifests(folder)
    assert trainings(folder) == 2 + 1
    assert [job["status"] for job in second["jobs"]] == ["FINISHED"] * 3
    assert [job["attempts"] for job in second["jobs"]] == [0, 0, 1]  # processes that were started
    assert files_of(folder, first) == before
    assert [job["run"] for job in second["jobs"][:2]] == [job["run"] for job in first["jobs"]]


def test_the_plan_says_what_is_there(grown: Any) -> None:
    folder, _, done = grown
    lines = done.stdout.splitlines()
    (sweep,) = (text for text in lines if text.startswith("sweep of "))
    assert sweep.startswith("sweep of 3 jobs, 2 already finished: ")
    assert "job 0 (seed=0): FINISHED after 0 s (1/3)" in done.stdout
    assert "job 0 (seed=0): started" not in done.stdout
    assert "job 2 (seed=2): started" in done.stdout
    newest = max(folder.glob("outputs/sweeps/*"), key=lambda path: path.stat().st_mtime)
    output = (next(newest.glob("jobs/00-*")) / "output.log").read_text()
    assert output.startswith("already finished: job 0 of growing-")


def test_the_report_has_all_of_them(grown: Any) -> None:
    folder, _, done = grown
    assert "3 seeds" in done.stdout
    results = [
        [
            json.loads(path.read_text())["evaluation"]
            for path in sorted(sweep.glob("jobs/*/result.json"))
        ]
        for sweep in sorted(folder.glob("outputs/sweeps/*"), key=lambda path: path.stat().st_mtime)
    ]
    assert all(results[-1]) and len(set(results[-1])) == 3
    assert results[-1][:2] == results[0]


def children_in(folder: Path, manifest: dict[str, Any], tracked_in: Any) -> list[Any]:
    """The runs below that of a sweep, by their jobs."""
    found = [
        run
        for run in tracked_in(folder)
        if run.tags.get("mlflow.parentRunId") == manifest["parent_run_id"]
    ]
    assert {run.run_id for run in found} == {job["run_id"] for job in manifest["jobs"]}
    return sorted(found, key=lambda run: int(run.tags["dit_lab.job"]))


def test_every_job_is_a_child_wherever_it_was_trained(grown: Any, tracked_in: Any) -> None:
    folder, _, _ = grown
    assert len(tracked_in(folder)) == 2 + 2 + 3  # two sweeps; four trainings, one of them new
    first, second = manifests(folder)
    before, now = (children_in(folder, one, tracked_in) for one in (first, second))
    assert [child.params["seed"] for child in now] == ["0", "1", "2"]
    for old, new in zip(before, now, strict=False):
        assert old.run_id != new.run_id
        assert new.tags["dit_lab.trained_in_run"] == old.run_id
        assert new.tags["dit_lab.run_folder"] == old.tags["dit_lab.run_folder"]
        assert new.tags["mlflow.runName"] == old.tags["mlflow.runName"]
        assert new.status == "FINISHED"
        assert new.params == old.params
        assert {"system/cpu_utilization_percentage"} < {name for _, name, _ in old.points}
        points = sorted(point for point in old.points if not point[1].startswith("system/"))
        last = {name: (step, value) for step, name, value in points}
        assert {name: (step, value) for step, name, value in new.points} == last
        assert {"eval/loss", "train/loss"} < last.keys() and any("two_sample" in n for n in last)
    assert "dit_lab.trained_in_run" not in now[2].tags
    for run in [*before, *now]:
        assert run.tags["mlflow.note.content"].startswith(f"{NOTE}\n")
        assert "| eval/loss |" in run.tags["mlflow.note.content"]
        assert "dit-lab train -m dataset=digits" in run.tags["mlflow.note.content"]
        assert (run.tags["topic"], run.tags["dit_lab.objective"]) == ("growth", "fragile")
        assert run.params["objective"] == "fragile"
        assert not {"note", "tags.topic"} & run.params.keys()


def test_the_page_has_the_data_and_the_grids_over_steps(grown: Any, tracked_in: Any) -> None:
    folder, _, _ = grown
    client = open_client(trust.trust_store(f"sqlite:///{folder}/outputs/mlflow.db"))
    for child in children_in(folder, manifests(folder)[1], tracked_in):
        inputs = client.get_run(child.run_id).inputs.dataset_inputs
        data = {one.dataset.name: {tag.value for tag in one.tags} for one in inputs}
        assert data == {"digits": {"training"}, "digits (validation)": {"validation"}}
        assert {one.dataset.digest for one in inputs} == {
            child.tags["dit_lab.data_fingerprint"][:36]
        }
    for job in manifests(folder)[0]["jobs"]:
        run = folder / "outputs" / job["run"]
        steps = sorted(int(grid.stem.removeprefix("step-")) for grid in run.glob("samples/*.png"))
        images = folder / "outputs/mlartifacts" / job["run_id"] / "artifacts/images"
        shown = sorted(int(image.name.split("+")[2]) for image in images.glob("samples+*.png"))
        assert shown == steps != []


def test_the_sweeps_run_says_what_came_of_it(grown: Any, tracked_in: Any) -> None:
    folder, _, done = grown
    second = manifests(folder)[1]
    (parent,) = (run for run in tracked_in(folder) if run.run_id == second["parent_run_id"])
    assert {"axis.seed": "0, 1, 2", "objective": "fragile"}.items() <= parent.params.items()
    assert parent.tags["topic"] == "growth"
    assert parent.tags["dit_lab.jobs_finished"] == "3"
    metric = parent.tags["dit_lab.metric"]
    values = [
        dict((name, value) for _, name, value in child.points)[metric]
        for child in children_in(folder, second, tracked_in)
    ]
    numbers = {name: value for _, name, value in parent.points}
    assert numbers[f"best/{metric}"] == pytest.approx(fmean(values))
    assert numbers[f"best_sd/{metric}"] == pytest.approx(stdev(values))
    assert numbers["best/seeds"] == numbers["jobs/finished"] == 3
    assert numbers["jobs/failed"] == 0
    note = parent.tags["mlflow.note.content"]
    assert note.startswith(f"{NOTE}\n")
    (said,) = (line for line in done.stdout.splitlines() if line.startswith("There is one config"))
    assert said in note
    assert f"runs/{parent.run_id}/artifacts/report/report.html" in note
    assert f"| seeds | {metric} (lower is better) |" in note


def test_what_the_tracker_lacks_of_a_sweep_is_made_up_for(
    grown: Any, forked_in: Command, tracked_in: Any
) -> None:
    """By the doctor; what is there is neither made nor told twice."""
    folder, _, _ = grown
    store = folder / "outputs/mlflow.db"
    before = tracked_in(folder)
    gone = manifests(folder)[1]["jobs"][0]["run_id"]
    with sqlite3.connect(store) as database:
        database.execute("update tags set value = 'x' where key = 'mlflow.parentRunId' "
                         "and run_uuid = ?", [gone])  # fmt: skip
    assert forked_in(folder, "doctor").stdout.count("MLflow was updated") == 1
    second = manifests(folder)[1]
    children = children_in(folder, second, tracked_in)
    assert len(children) == 3
    assert gone not in {child.run_id for child in children}
    assert "MLflow was updated" not in forked_in(folder, "doctor").stdout
    assert len(tracked_in(folder)) == len(before) + 1


@pytest.mark.slow
def test_a_smaller_sweep_and_another_evaluation(
    grown: Any, forked_in: Command, train: list[str]
) -> None:
    """A part of it is there as a whole; of another sampler the weights are, and no measurement."""
    folder = grown[0]
    part = forked_in(folder, *train, "seed=1,2")
    assert part.returncode == 0, part.stdout + part.stderr
    assert "sweep of 2 jobs, 2 already finished: " in part.stdout
    assert "estimated time" not in part.stdout
    assert "report: " in part.stdout
    assert trainings(folder) == 3
    other = forked_in(folder, *train, "seed=1,2", "sampler.steps=1")
    assert other.returncode == 0, other.stdout + other.stderr
    assert "sweep of 2 jobs: " in other.stdout
    assert trainings(folder) == 3
    assert [job["attempts"] for job in manifests(folder)[-1]["jobs"]] == [1, 1]
    anew = forked_in(folder, *train, "seed=1,2", "resume=never")
    assert anew.returncode == 0, anew.stdout + anew.stderr
    assert "sweep of 2 jobs: " in anew.stdout
    assert trainings(folder) == 5


def test_ways_of_sampling_are_children_with_the_loss(
    grown: Any, forked_in: Command, train: list[str], tracked_in: Any
) -> None:
    """Of what an earlier sweep has trained, and of what is trained now."""
    folder, trained = grown[0], trainings(grown[0])
    done = forked_in(folder, *train, "seed=0,9", "sampler.steps=2,3")
    assert done.returncode == 0, done.stdout + done.stderr
    assert trainings(folder) == trained + 1
    children = children_in(folder, manifests(folder)[-1], tracked_in)
    told = [(child.params["seed"], child.params["sampler.steps"]) for child in children]
    assert told == [("0", "2"), ("9", "2"), ("0", "3"), ("9", "3")]
    for child in children:
        names = [name for _, name, _ in child.points]
        assert "eval/loss" in names and any("two_sample" in name for name in names)
    values = [dict((name, value) for _, name, value in child.points) for child in children]
    assert values[0]["eval/loss"] == values[2]["eval/loss"] != values[1]["eval/loss"]
