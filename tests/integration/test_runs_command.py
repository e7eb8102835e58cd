"""`dit-lab runs`: listing, pruning and removal, here and in MLflow."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from dit_lab.cli.main import main
from dit_lab.runs.folder import RunFolder, read_json, write_json
from dit_lab.runs.lock import Lease

pytestmark = pytest.mark.slow

FEW = ["training.total_steps=8", "training.checkpoint_every_steps=2"]
Fork = Callable[..., Any]


class Said(NamedTuple):
    code: int
    out: list[str]
    err: str


DitLab = Callable[..., Said]


@pytest.fixture
def dit_lab(capsys: pytest.CaptureFixture[str]) -> DitLab:
    def typed(*arguments: str) -> Said:
        code = main(arguments)
        captured = capsys.readouterr()
        return Said(code, captured.out.splitlines(), captured.err)

    return typed


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory,
    store_in: Callable[[Path], None],
    forked_in: Callable[..., Any],
    tiny: list[str],
) -> Path:
    """Three runs and a sweep of two, tracked by MLflow.

    One run needs a checkpoint of another, and one starts from its weights.
    """
    folder = tmp_path_factory.mktemp("trained")
    store_in(folder)

    def train(*more: str) -> None:
        done = forked_in(folder, "train", *tiny, *FEW, *more)
        assert done.returncode == 0, done.stderr

    train("name=first", "seed=1")
    (first,) = folder.glob("outputs/runs/first/*")
    weak = f"guidance.weak_run={first}/checkpoints/step-00000004"
    train("name=guided", "seed=2", weak, "guidance.scale=2")
    train("name=begun", "seed=3", f"init_from={first}/checkpoints/step-00000008")
    train("-m", "name=jobs", "seed=4,5", "sweep.name=two")
    return folder


@pytest.fixture
def lab(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy, in which a command is typed."""
    shutil.copytree(trained, tmp_path / "lab", symlinks=True)
    for file in tmp_path.glob("lab/outputs/**/*"):
        if file.name in ("config.yaml", "config.json", "manifest.json"):
            file.write_text(file.read_text().replace(str(trained), str(tmp_path / "lab")))
    monkeypatch.chdir(tmp_path / "lab")
    return tmp_path / "lab"


def steps(lab: Path, name: str) -> list[int]:
    found = lab.glob(f"outputs/runs/{name}/*/checkpoints/step-*")
    return sorted(int(path.name.removeprefix("step-")) for path in found)


def hash_of(lab: Path, name: str) -> str:
    (run,) = lab.glob(f"outputs/runs/{name}/*")
    return run.name


def in_mlflow(lab: Path) -> dict[str, str]:
    """Name of a run -> active or deleted."""
    with sqlite3.connect(lab / "outputs/mlflow.db") as store:
        return dict(store.execute("select name, lifecycle_stage from runs").fetchall())


def files(lab: Path) -> dict[Path, int]:
    return {path: path.lstat().st_mtime_ns for path in (lab / "outputs").rglob("*")}


# ---- list ---------------------------------------------------------------------------------------


def test_all_runs_the_newest_first(lab: Path, dit_lab: DitLab) -> None:
    done = dit_lab("runs", "list")
    assert (done.code, done.err) == (0, "")
    heading, *rows, total = done.out
    assert heading.split() == ["run", "status", "step", "MB", "last", "update"]
    names = [row.split()[0].partition("/")[0] for row in rows]
    assert names == ["jobs", "jobs", "begun", "guided", "first"]
    assert all(row.split()[1:3] == ["FINISHED", "8"] for row in rows)
    assert total.startswith("5 runs, ")
    sizes = [float(row.split()[3]) for row in rows]
    assert float(total.split()[2]) == pytest.approx(sum(sizes), abs=0.3)


def test_some_runs_in_another_order(lab: Path, dit_lab: DitLab) -> None:
    sweep = next((lab / "outputs/sweeps").iterdir()).name
    rows = dit_lab("runs", "list", "first", sweep, "--sort", "name", "--json", "all.json").out
    assert [row.split("/")[0] for row in rows[1:4]] == ["first", "jobs", "jobs"]
    assert rows[-1] == f"written: {Path('all.json')}"
    written = json.loads(Path("all.json").read_text())
    assert [one["run"].split("/")[0] for one in written["runs"]] == ["first", "jobs", "jobs"]
    shutil.rmtree(next(lab.glob("outputs/runs/first/*/checkpoints")))
    assert dit_lab("runs", "list", "--sort", "size").out[-2].startswith("first/")


# ---- prune --------------------------------------------------------------------------------------


def test_a_dry_run_says_what_would_go_and_changes_nothing(lab: Path, dit_lab: DitLab) -> None:
    before = files(lab)
    done = dit_lab("runs", "prune", "*", "--dry-run")
    assert (done.code, done.err) == (0, "")
    first = next(line for line in done.out if line.startswith("first/"))
    begun, guided = hash_of(lab, "begun"), hash_of(lab, "guided")
    assert "would remove step 2, " in first
    needed = f"runs/begun/{begun} (init_from), runs/guided/{guided} (guidance.weak_run)"
    assert f"steps 4, 6, 8 stay (needed by {needed})" in first
    assert done.out[-1].startswith("would remove: 9 checkpoints, ")
    assert files(lab) == before
    done = dit_lab("runs", "remove", "*", "--dry-run")
    assert done.out[-1].startswith("would remove: 5 runs, ")
    assert files(lab) == before


def test_checkpoints_that_nobody_needs_go(lab: Path, dit_lab: DitLab) -> None:
    total = dit_lab("runs", "list").out[-1]
    done = dit_lab("runs", "prune", "first", "jobs/*", "--keep", "1")
    assert (done.code, done.err) == (0, "")
    assert steps(lab, "first") == [4, 8]
    assert steps(lab, "jobs") == [8, 8]
    assert steps(lab, "guided") == [2, 4, 6, 8]
    freed = float(done.out[-1].removeprefix("removed: 8 checkpoints, ").removesuffix(" MB"))
    left = dit_lab("runs", "list").out[-1]
    assert float(total.split()[2]) - float(left.split()[2]) == pytest.approx(freed, abs=0.2)
    assert dit_lab("runs", "prune", "jobs/*", "--keep", "1").out[0].endswith("nothing to remove")


@pytest.mark.parametrize("status", ["RUNNING", "KILLED", "FAILED"])
def test_a_run_that_may_go_on_keeps_all(status: str, lab: Path, dit_lab: DitLab) -> None:
    run = RunFolder(next(lab.glob("outputs/runs/jobs/*")))
    write_json(run.status, {**read_json(run.status), "status": status})
    done = dit_lab("runs", "prune", str(run.root))
    assert done.out[0].endswith(f"not changed: {status}, so it may still be resumed")
    assert len(list(run.checkpoints.iterdir())) == 4


def test_a_run_that_somebody_writes_to_is_left_alone(lab: Path, dit_lab: DitLab) -> None:
    """A finished one is extended, or measured, in its folder."""
    run = RunFolder(next(lab.glob("outputs/runs/first/*")))
    with Lease(run.lease):
        before = files(lab)
        done = dit_lab("runs", "prune", "first", "--keep", "1")
        assert "not changed: process" in done.out[0]
        assert dit_lab("runs", "remove", "first", "--force").code == 2
        assert files(lab) == before
    assert dit_lab("runs", "prune", "first").out[-1].startswith("removed: 1 checkpoint, ")


def test_where_the_newest_is_damaged_the_others_stay(lab: Path, dit_lab: DitLab) -> None:
    run = next(lab.glob("outputs/runs/jobs/*"))
    file = run / "checkpoints/step-00000008/model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    done = dit_lab("runs", "prune", str(run))
    assert f"not changed: damaged: {file}: content differs from what was written" in done.out[0]
    assert len(list(file.parents[1].iterdir())) == 4


def test_what_a_configuration_keeps_for_good_stays(lab: Path, dit_lab: DitLab) -> None:
    run = next(lab.glob("outputs/runs/jobs/*"))
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("keep_every_steps: 0", "keep_every_steps: 4"))
    assert "removed steps 2, 6, " in dit_lab("runs", "prune", str(run), "--keep", "1").out[0]


# ---- remove -------------------------------------------------------------------------------------


def test_a_run_goes_here_and_in_mlflow(lab: Path, dit_lab: DitLab) -> None:
    """Named by the beginning of its hash."""
    guided = hash_of(lab, "guided")
    done = dit_lab("runs", "remove", guided[:5])
    assert (done.code, done.err) == (0, "")
    assert done.out[0].startswith(f"removed: runs/guided/{guided}, FINISHED at step 8, ")
    assert done.out[-1] == "MLflow: 1 run deleted; `mlflow gc` frees their files"
    assert not (lab / "outputs/runs/guided").exists()
    tracked = in_mlflow(lab)
    assert tracked.pop(f"guided-{guided}") == "deleted"
    assert set(tracked.values()) == {"active"}


@pytest.mark.parametrize(
    ("name", "by"), [("first", "guidance.weak_run"), ("first", "init_from"), ("jobs/*", "job 0")]
)
def test_what_others_need_is_named_and_stays(
    name: str, by: str, lab: Path, dit_lab: DitLab
) -> None:
    """Whichever key it is that names the run, and sweeps."""
    if by == "init_from":
        shutil.rmtree(lab / "outputs/runs/guided")
    before = files(lab)
    done = dit_lab("runs", "remove", name)
    assert (done.code, done.out) == (2, [])
    assert f"({by})" in done.err
    assert done.err.endswith("leave it out, or give --force\n")
    assert files(lab) == before
    done = dit_lab("runs", "remove", name, "--force")
    assert done.code == 0
    assert any(f"({by})" in line for line in done.out)
    assert not list(lab.glob(f"outputs/runs/{name}"))


def test_pairs_of_a_run_are_needed_by_what_was_trained_on_them(lab: Path, dit_lab: DitLab) -> None:
    """A key that no line of the help names: any file in a run."""
    first = next(lab.glob("outputs/runs/first/*"))
    config = next(lab.glob("outputs/runs/begun/*")) / "config.yaml"
    config.write_text(config.read_text() + f"coupling:\n  pairs: {first}/pairs/0123456789ab\n")
    text = config.read_text().replace("init_from: ", "before: ")
    config.write_text(text)
    shutil.rmtree(lab / "outputs/runs/guided")
    assert "runs/begun" in dit_lab("runs", "remove", "first").err


def test_those_who_need_each_other_go_together(lab: Path, dit_lab: DitLab) -> None:
    done = dit_lab("runs", "remove", "first", "guided", "begun")
    assert (done.code, done.err) == (0, "")
    assert [path.name for path in (lab / "outputs/runs").iterdir()] == ["jobs"]


def test_a_sweep_goes_with_its_runs(lab: Path, dit_lab: DitLab) -> None:
    sweep = next((lab / "outputs/sweeps").iterdir())
    done = dit_lab("runs", "remove", sweep.name)
    assert (done.code, done.err) == (0, "")
    assert done.out[-2].startswith("removed: 2 runs and 1 sweep, ")
    assert not (lab / "outputs/runs/jobs").exists()
    assert not (lab / "outputs/sweeps").exists()
    tracked = in_mlflow(lab)
    gone = [name for name, stage in tracked.items() if stage == "deleted"]
    assert len(gone) == 3
    assert any(sweep.name in name for name in gone)


def test_a_link_in_a_sweep_of_somebody_else_leads_nowhere(lab: Path, dit_lab: DitLab) -> None:
    """Its jobs would be runs of mine."""
    theirs = lab / "theirs/outputs"
    shutil.copytree(lab / "outputs/sweeps", theirs / "sweeps", symlinks=True)
    (theirs / "runs").symlink_to(lab / "outputs/runs")
    sweep = next((theirs / "sweeps").iterdir())
    done = dit_lab("runs", "remove", str(sweep), "--force")
    assert done.code == 0, done.err
    assert not sweep.exists()
    assert steps(lab, "jobs") == [2, 2, 4, 4, 6, 6, 8, 8]


def test_a_run_of_two_sweeps_is_still_needed(lab: Path, dit_lab: DitLab) -> None:
    sweep = next((lab / "outputs/sweeps").iterdir())
    shutil.copytree(sweep, sweep.with_name("another"), symlinks=True)
    done = dit_lab("runs", "remove", sweep.name)
    assert done.code == 2
    assert "is needed by sweeps/another (job 0)" in done.err


def test_a_store_that_is_away_is_said(lab: Path, dit_lab: DitLab) -> None:
    (lab / "outputs/mlflow.db").unlink()
    done = dit_lab("runs", "remove", "guided")
    assert (done.code, done.err) == (0, "")
    assert done.out[-1].startswith("left in MLflow (")
    assert "mlflow.db is missing" in done.out[-1]
    assert not (lab / "outputs/runs/guided").exists()
    assert not (lab / "outputs/mlflow.db").exists()


def test_a_store_that_only_a_file_names_is_not_contacted(lab: Path, dit_lab: DitLab) -> None:
    config = next(lab.glob("outputs/runs/guided/*")) / "config.yaml"
    text = config.read_text()
    config.write_text(
        text.replace(f"sqlite:///{lab}/outputs/mlflow.db", "https://somebody.example")
    )
    assert config.read_text() != text
    said = dit_lab("runs", "remove", "guided").out[-1]
    assert said.startswith("left in MLflow (https://somebody.example is not contacted")
    assert "active" in set(in_mlflow(lab).values())


def test_a_run_whose_process_was_killed_can_be_removed(lab: Path, dit_lab: DitLab) -> None:
    run = RunFolder(next(lab.glob("outputs/runs/guided/*")))
    write_json(run.status, {**read_json(run.status), "status": "RUNNING"})
    assert dit_lab("runs", "remove", "guided").code == 0


def test_a_root_that_was_moved(lab: Path, dit_lab: DitLab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its store lies in it, wherever that is by now."""
    moved = lab.with_name("moved")
    lab.rename(moved)
    monkeypatch.chdir(moved)
    done = dit_lab("runs", "remove", "guided")
    assert done.out[-1].startswith("MLflow: 1 run deleted")


# ---- at the end of a training -------------------------------------------------------------------


@pytest.fixture
def running(
    fork_in: Fork, tmp_path: Path, tiny: list[str], wait_for_step: Callable[..., None]
) -> Iterator[tuple[Callable[..., Any], Any]]:
    """A training with `training.keep_finished=2` that has come to step 35, and how it is typed."""
    typed = [*tiny, "tracking=none", "training.keep_finished=2", "training.total_steps=60"]
    start = partial(fork_in, tmp_path, "train", *typed)
    process = start()
    wait_for_step(tmp_path, 35, process)
    yield start, process
    process.kill()


def test_checkpoints_go_when_a_run_is_finished_and_not_before(
    running: tuple[Callable[..., Any], Any], tmp_path: Path, run_in: Callable[..., Any]
) -> None:
    start, process = running
    process.send_signal(signal.SIGTERM)
    code = process.wait().returncode
    before = run_in(tmp_path).checkpoints()
    if code == 143:  # it was not faster
        assert len(before) >= 3
        assert start().wait().returncode == 0
    run = run_in(tmp_path)
    assert run.status["status"] == "FINISHED"
    assert run.checkpoints() == [50, 60]
    assert "removed the checkpoints of steps 10, 20, 30" in run.log
