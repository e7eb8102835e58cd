"""Sweeps whose tracking server is away temporarily or always, or is updated later."""

from __future__ import annotations

import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dit_lab.core.trust import trust_modules, trust_own_store
from dit_lab.runs.folder import RunFolder, step_of, update_status, write_json
from dit_lab.runs.manifest import SweepFolder
from dit_lab.runs.metrics import read_metrics
from dit_lab.sweeps.tracker import tell_end
from tests.integration.fragile import OWN, manifest_in, sweep_in, sweep_of
from tests.integration.server import free_port, serving

pytestmark = pytest.mark.slow

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def train(tiny: list[str]) -> list[str]:
    return sweep_of(tiny)


def kept_of(folder: Path, tracked: Any) -> Iterator[Path]:
    """The files that the store keeps of a run; a server puts them below their experiment."""
    return folder.glob(f"outputs/mlartifacts/**/{tracked.run_id}/**/*.*")


def check_told(folder: Path, runs: list[Any], tracked: list[Any]) -> None:
    """The store has one parent and, below it, every point, file and status of these runs."""
    by_id = {found.run_id: found for found in tracked}
    manifest = manifest_in(folder)
    parent = by_id.pop(manifest["parent_run_id"])
    assert parent.status == manifest["status"]
    assert parent.tags["dit_lab.jobs"] == str(len(runs))
    ids = {run.status["tracking_run_id"] for run in runs}
    assert ids == set(by_id) == {job["run_id"] for job in manifest["jobs"]}
    for run in runs:
        found = by_id[run.status["tracking_run_id"]]
        assert found.status == run.status["status"]
        assert found.tags["mlflow.parentRunId"] == parent.run_id
        assert found.rows() == run.rows_by_step()
        written = sum(len(row.metrics) for row in read_metrics(run.root / "metrics.jsonl"))
        assert len(found.points) == written  # those of the clock, too
        of_run = RunFolder(run.root)
        kept = {path.name.partition("+timestamp")[0] for path in kept_of(folder, found)}
        steps = [step_of(path.with_suffix("")) for path in of_run.samples.glob("*.png")]
        drawn = {f"samples+step+{step}" for step in steps}
        measured = {path.name for path in of_run.evaluations.glob("*.json")}
        assert {"config.yaml", *drawn, *measured} <= kept
    kept = {path.name for path in kept_of(folder, parent)}
    assert {"manifest.json", "report.html"} <= kept


def test_what_is_sent_later_is_sent_by_the_sweep(
    folder: Path, forked: Command, train: list[str], runs_in: Any, tracked_in: Any
) -> None:
    done = forked(*train, "seed=0,1", "objective.way=none,raise", "tracking.send=later")
    assert done.returncode == 1, done.stderr
    check_told(folder, runs_in(folder), tracked_in(folder))
    said = forked("doctor")
    assert "MLflow" not in said.stdout

    # a job whose training the store had not taken to the end
    sweep = SweepFolder(Path(sweep_in(folder)))
    run = sweep.run(sweep.read().jobs[0])
    run_id = update_status(run, is_tracked_whole=False)["tracking_run_id"]
    with sqlite3.connect(folder / "outputs/mlflow.db") as store:
        store.execute("update runs set status = 'RUNNING' where run_uuid = ?", (run_id,))
        for table in ("metrics", "latest_metrics", "params"):
            store.execute(f"delete from {table} where run_uuid = ?", (run_id,))
    trust_own_store(folder / "outputs")
    assert tell_end(sweep, sweep.read()) == ""
    check_told(folder, runs_in(folder), tracked_in(folder))


def test_a_database_file_is_written_to_where_it_lies(
    folder: Path, forked: Command, train: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from dit_lab.sweeps.job import read_task

    monkeypatch.syspath_prepend(folder)  # where the command is typed
    trust_modules(["fragile"])

    done = forked(*train, "seed=0,1", "training.total_steps=1")
    assert done.returncode == 0, done.stderr
    sweep = Path(sweep_in(folder))
    job = next(iter(sweep.glob("jobs/*")))
    assert read_task(job).config.tracking.send == "now"
    now = time.time()
    holder = {"pid": 1, "started": now, "heartbeat": now, "stopping": False}
    write_json(sweep / "lease", {**holder, "host": "a-host-far-away"})
    assert read_task(job).config.tracking.send == "later"
    sweep_on_a_server = forked(
        *train, "seed=2,3", "training.total_steps=1", "tracking.uri=http://127.0.0.1:9"
    )
    assert sweep_on_a_server.returncode == 0, sweep_on_a_server.stderr
    other = next(one for one in (sweep.parent).iterdir() if one != sweep)
    write_json(other / "lease", {**holder, "host": "a-host-far-away"})
    assert read_task(next(iter(other.glob("jobs/*")))).config.tracking.send == "now"


@pytest.mark.timeout(600)
def test_a_server_that_was_never_there_is_told_by_the_doctor(
    folder: Path, command: Command, train: list[str], runs_in: Any, tracked_in: Any
) -> None:
    port = free_port()
    address = f"tracking.uri=http://127.0.0.1:{port}"
    done = command(*train, "objective.way=none,raise", "sweep.jobs_per_slot=2", address)
    assert done.returncode == 1, done.stderr
    assert "MLflow does not answer" in done.stdout
    assert tracked_in(folder) == []
    uri, artifacts = f"sqlite:///{folder}/outputs/mlflow.db", folder / "outputs/mlartifacts"
    with serving(uri, artifacts, port, folder):
        assert "MLflow was updated" not in command("doctor").stdout  # a server that only files name
        said = command("doctor", address, OWN).stdout
        assert said.count("MLflow was updated") == 3, said  # two runs and their sweep
        assert "MLflow was updated" not in command("doctor", address, OWN).stdout
    check_told(folder, runs_in(folder), tracked_in(folder))


@pytest.mark.timeout(600)
def test_a_server_that_is_killed_and_comes_back_has_everything(
    folder: Path,
    command: Command,
    start: Any,
    train: list[str],
    wait_for_step: Any,
    runs_in: Any,
    tracked_in: Any,
) -> None:
    port = free_port()
    uri, artifacts = f"sqlite:///{folder}/outputs/mlflow.db", folder / "outputs/mlartifacts"
    steps = ["training.total_steps=3000", "training.log_every_steps=10", "sweep.jobs_per_slot=2"]
    quiet = ["training.sample_every_steps=1000", "training.validate_every_steps=1000"]
    with serving(uri, artifacts, port, folder):
        process = start(*train, "seed=0,1", *steps, *quiet, f"tracking.uri=http://127.0.0.1:{port}")
        wait_for_step(folder, 50, process)
    before = [run.status["step"] for run in runs_in(folder)]
    time.sleep(20)
    during = [run.status["step"] for run in runs_in(folder)]
    assert all(now > then for then, now in zip(before, during, strict=True))
    with serving(uri, artifacts, port, folder):
        out, _ = process.communicate()
        assert process.returncode == 0, out
    check_told(folder, runs_in(folder), tracked_in(folder))
