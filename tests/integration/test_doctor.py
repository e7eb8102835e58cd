"""`dit-lab doctor`: finds runs that exited without cleanup and leaves other runs alone."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dit_lab.runs.metrics import read_metrics

pytestmark = pytest.mark.slow

Command = Callable[..., "subprocess.CompletedProcess[str]"]
Fork = Callable[..., Any]


@dataclass
class Ward:
    """Five runs below one root, and what the doctor printed about each."""

    folder: Path
    runs: dict[str, Any]
    living: Any  # the process
    before: dict[str, dict[Path, int]]  # when the files of each run were changed
    printed: list[str]
    tracked: dict[str, Any]  # after the doctor, what MLflow says

    def line(self, name: str) -> str:
        """What was said of a run, without its folder."""
        (line,) = [line for line in self.printed if self.runs[name].root.name in line]
        return " ".join(line.replace(f"runs/tiny/{self.runs[name].root.name}", "").split())


def copy(run: Any, name: str, **status: Any) -> Any:
    """A run of its own with the files of another, as it was when it was copied."""
    copied = type(run)(run.root.with_name(name))
    shutil.copytree(run.root, copied.root)
    (copied.root / "status.json").write_text(json.dumps({**run.status, **status}))
    return copied


def write_lease(run: Any, host: str) -> None:
    now = time.time()
    holder = {"host": host, "pid": 1, "started": now, "heartbeat": now, "stopping": False}
    (run.root / "lease").write_text(json.dumps(holder))


@pytest.fixture(scope="module")
def ward(
    tmp_path_factory: pytest.TempPathFactory,
    fork_in: Fork,
    forked_in: Command,
    store_in: Callable[[Path], None],
    tiny: list[str],
    run_in: Callable[[Path], Any],
    tracked_in: Callable[[Path], list[Any]],
    wait_for_step: Callable[..., None],
) -> Iterator[Ward]:
    folder = tmp_path_factory.mktemp("ward")
    store_in(folder)
    for step in (25, 30):  # the second start sends what the first had no time for, up to step 20
        process = fork_in(folder, "train", *tiny)
        wait_for_step(folder, step, process)
        process.kill()
    runs = {"killed": run_in(folder)}
    runs["far away"] = copy(runs["killed"], "fa4a3a7fa4a3")
    # the first in the alphabet, so that whatever it does would keep the others from being seen
    runs["unreachable"] = copy(runs["killed"], "000000000000")
    config = runs["unreachable"].root / "config.yaml"
    store = f"sqlite:///{folder}/outputs/mlflow.db"
    text = config.read_text()
    assert store in text
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound and not listening: whoever connects is refused
        config.write_text(text.replace(store, f"http://127.0.0.1:{nobody.getsockname()[1]}"))

        def new() -> list[Any]:
            known = [run.root for run in runs.values()]
            found = (folder / "outputs/runs/tiny").iterdir()
            return [type(runs["killed"])(root) for root in found if root not in known]

        short = ["training.total_steps=2", "seed=1"]
        assert forked_in(folder, "train", *tiny, *short).returncode == 0
        (runs["finished"],) = new()
        living = fork_in(folder, "train", *tiny, "training.total_steps=100000", "tracking=none")
        until(lambda: any(run.status.get("step", 0) >= 5 for run in new()))
        (runs["living"],) = new()
        write_lease(runs["far away"], host="a-host-far-away")
        before = {name: run.times() for name, run in runs.items()}
        done = forked_in(folder, "doctor")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    names = {run.status.get("tracking_run_id"): name for name, run in runs.items()}
    names[runs["killed"].status["tracking_run_id"]] = "killed"  # the copies have it, too
    tracked = {names[found.run_id]: found for found in tracked_in(folder)}
    yield Ward(folder, runs, living, before, done.stdout.splitlines(), tracked)
    living.kill()


def test_a_killed_run_is_called_killed_everywhere(ward: Ward) -> None:
    run, tracked = ward.runs["killed"], ward.tracked["killed"]
    assert run.status["status"] == tracked.status == "KILLED"
    told = f"KILLED step {run.status['step']} exited without cleanup; last update at "
    assert ward.line("killed").startswith(told)
    assert run.status["error"] in ward.line("killed")
    assert tracked.tags["error"] == run.status["error"]


def test_the_tracker_gets_the_points_that_it_lacked(ward: Ward) -> None:
    run, tracked = ward.runs["killed"], ward.tracked["killed"]
    assert tracked.rows() == run.rows_by_step()
    written = sum(len(row.metrics) for row in read_metrics(run.root / "metrics.jsonl"))
    assert len(tracked.points) == written  # those of the clock, too
    (said,) = [part for part in ward.line("killed").split("; ") if part.startswith("MLflow")]
    lacks = r"MLflow was updated: (\d+) points, 1 tag.*, final status"
    lacked = re.match(lacks, said)
    assert lacked and 0 < int(lacked[1]) < written


def test_a_finished_run_is_left_alone(ward: Ward) -> None:
    run = ward.runs["finished"]
    assert ward.line("finished") == "FINISHED step 2"
    assert run.times() == ward.before["finished"]
    assert (run.root / "lease").read_bytes() == b""
    assert ward.tracked["finished"].status == "FINISHED"


def test_a_living_run_is_left_alone_and_its_writer_named(ward: Ward) -> None:
    assert ward.living.returncode is None
    assert ward.runs["living"].status["status"] == "RUNNING"
    said = ward.line("living")
    assert said.startswith("RUNNING step ")
    assert f"process {ward.living.pid} on {socket.gethostname()} has been writing here" in said


def test_a_run_on_another_host_that_is_heard_of_is_left_alone(ward: Ward) -> None:
    run = ward.runs["far away"]
    assert run.times() == ward.before["far away"]
    assert run.status["status"] == "RUNNING"
    assert "process 1 on a-host-far-away has been writing here" in ward.line("far away")
    assert "(last heartbeat " in ward.line("far away")


def test_a_store_that_cannot_be_reached_is_said_and_the_others_are_seen(ward: Ward) -> None:
    assert ward.runs["unreachable"].status["status"] == "KILLED"
    assert "MLflow could not be updated (" in ward.line("unreachable")
    assert len(ward.printed) == len(ward.runs)
    assert "000000000000" in ward.printed[0]


def test_the_rerun_goes_on_to_the_same_bits_and_ends_the_story(
    ward: Ward,
    forked_in: Command,
    tiny: list[str],
    tmp_path: Path,
    run_in: Callable[[Path], Any],
    tracked_in: Callable[[Path], list[Any]],
) -> None:
    done = forked_in(ward.folder, "train", *tiny)
    assert done.returncode == 0, done.stderr
    assert "resumed at step " in done.stdout
    assert forked_in(tmp_path, "train", *tiny, "tracking=none").returncode == 0
    run, straight = ward.runs["killed"], run_in(tmp_path)
    assert run.final_files() == straight.final_files()
    assert run.rows() == straight.rows()
    assert (run.status["status"], run.status["error"]) == ("FINISHED", None)
    run_id = run.status["tracking_run_id"]
    (tracked,) = [found for found in tracked_in(ward.folder) if found.run_id == run_id]
    assert tracked.status == "FINISHED"
    assert "error" not in tracked.tags
    assert tracked.rows() == run.rows_by_step()  # nothing twice


def test_a_run_that_was_stopped_is_not_called_killed_outright(
    ward: Ward, forked_in: Command
) -> None:
    """The last test: it stops the run that lives in the others."""
    ward.living.send_signal(signal.SIGTERM)
    assert ward.living.wait().returncode == 143
    done = forked_in(ward.folder, "doctor", "paths.root=outputs")
    assert done.returncode == 0
    (line,) = [line for line in done.stdout.splitlines() if ward.runs["living"].root.name in line]
    assert line.startswith("KILLED")
    assert "outright" not in line


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
