"""Extending a run by the real command gives the same results as a longer run."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., "subprocess.CompletedProcess[str]"]
Fork = Callable[..., Any]
RunIn = Callable[[Path], Any]
Tracked = Callable[[Path], list[Any]]

LONGER = "training.total_steps=60"


@pytest.fixture(scope="module")
def parent(
    tmp_path_factory: pytest.TempPathFactory,
    forked_in: Command,
    store_in: Callable[[Path], None],
    tiny: list[str],
    run_in: RunIn,
) -> Any:
    """40 steps, tracked."""
    folder = tmp_path_factory.mktemp("parent")
    store_in(folder)
    done = forked_in(folder, "train", *tiny)
    assert done.returncode == 0, done.stderr
    return run_in(folder)


@pytest.fixture(scope="module")
def straight(
    tmp_path_factory: pytest.TempPathFactory, forked_in: Command, tiny: list[str], run_in: RunIn
) -> Any:
    """60 steps at once."""
    folder = tmp_path_factory.mktemp("straight")
    done = forked_in(folder, "train", *tiny, LONGER, "tracking=none")
    assert done.returncode == 0, done.stderr
    return run_in(folder)


@pytest.fixture
def extend(parent: Any, tmp_path: Path) -> list[str]:
    """The command that extends the parent, in a root of its own."""
    elsewhere = ["tracking=none", f"paths.root={tmp_path}/outputs"]
    return ["train", f"resume={parent.root}", LONGER, *elsewhere]


def assert_same(found: Any, straight: Any) -> None:
    """Equal in every bit, logged rows included, and where the 60 steps would lie."""
    assert found.root.name == straight.root.name
    assert found.final_files() == straight.final_files()
    assert found.rows() == straight.rows()
    assert found.status["status"] == "FINISHED"
    assert found.status["results"] == straight.status["results"]


def test_an_extended_run_is_the_longer_run(
    extend: list[str],
    parent: Any,
    straight: Any,
    forked: Command,
    tiny: list[str],
    tmp_path: Path,
    run_in: RunIn,
) -> None:
    before = parent.times()
    done = forked(*extend)
    assert done.returncode == 0, done.stderr
    assert "resumed at step 40" in done.stdout
    run = run_in(tmp_path)
    assert_same(run, straight)
    assert run.checkpoints() == [40, 50, 60]
    assert run.identity["ancestors"] == [parent.root.name]
    assert run.identity["forced_over"] == []
    assert parent.times() == before
    again = forked(*extend)
    assert "already finished" in again.stdout
    # by the command of the longer run, too
    assert "already finished" in forked("train", *tiny, LONGER, "tracking=none").stdout


@pytest.mark.slow
def test_killed_and_rerun_it_is_still_the_longer_run(
    extend: list[str],
    straight: Any,
    fork: Fork,
    forked: Command,
    tmp_path: Path,
    run_in: RunIn,
    wait_for_step: Callable[..., None],
) -> None:
    process = fork(*extend)
    wait_for_step(tmp_path, 45, process)
    process.kill()
    done = forked(*extend)
    assert done.returncode == 0, done.stderr
    assert_same(run_in(tmp_path), straight)


def test_mlflow_shows_the_whole_curve_in_a_run_of_its_own(
    parent: Any, straight: Any, forked_in: Command, tracked_in: Tracked
) -> None:
    folder = parent.root.parents[3]
    (first,) = tracked_in(folder)
    done = forked_in(folder, "train", f"resume={parent.root.relative_to(folder)}", LONGER)
    assert done.returncode == 0, done.stderr
    run = type(parent)(parent.root.with_name(straight.root.name))
    assert_same(run, straight)
    untouched, second = tracked_in(folder)
    assert untouched == first
    assert (second.run_id, second.status) == (run.status["tracking_run_id"], "FINISHED")
    assert second.rows() == straight.rows_by_step()
    assert second.tags["dit_lab.ancestors"] == parent.root.name
    assert second.params["training.total_steps"] == "60"


# ---- what can go wrong --------------------------------------------------------------------------


def flip(file: Path) -> None:
    """Change a bit, in a copy: the file may be shared with another run."""
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.unlink()
    file.write_bytes(content)


@pytest.fixture
def copied(parent: Any, tmp_path: Path, extend: list[str]) -> Any:
    """The parent in a place where it may be damaged; `extend` extends it from there."""
    run = type(parent)(tmp_path / "copied" / parent.root.name)
    shutil.copytree(parent.root, run.root)
    extend[1] = f"resume={run.root}"
    return run


def test_a_damaged_checkpoint_of_the_parent_is_named_and_skipped(
    copied: Any,
    extend: list[str],
    straight: Any,
    forked: Command,
    tmp_path: Path,
    run_in: RunIn,
) -> None:
    flip(copied.checkpoint(40) / "model.safetensors")
    done = forked(*extend)
    assert done.returncode == 0, done.stderr
    assert f"skipped a checkpoint: {copied.checkpoint(40)}/model.safetensors" in done.stdout
    assert "resumed at step 30" in done.stdout
    run = run_in(tmp_path)
    assert_same(run, straight)
    assert run.checkpoints() == [30, 40, 50, 60]


def test_a_schedule_that_depends_on_the_end_goes_on_by_force_in_its_own_folder(
    forked: Command, tiny: list[str], tmp_path: Path
) -> None:
    cosine = ["train", *tiny, "schedule=cosine", "tracking=none"]
    assert forked(*cosine, "training.total_steps=5").returncode == 0
    runs = tmp_path / "outputs/runs/tiny"
    (first,) = runs.iterdir()
    refused = forked("train", f"resume={first}", "training.total_steps=10")
    assert refused.returncode == 2
    assert "schedule=cosine depends on training.total_steps" in refused.stderr
    assert f"resume=force:{first} goes on regardless" in refused.stderr
    assert list(runs.iterdir()) == [first]

    by_force = ["train", f"resume=force:{first}", "training.total_steps=10"]
    assert "resumed at step 5" in forked(*by_force).stdout
    (forced,) = set(runs.iterdir()) - {first}
    assert "already finished" in forked(*by_force).stdout
    assert forked(*cosine, "training.total_steps=10").returncode == 0
    (anew,) = set(runs.iterdir()) - {first, forced}
    weights = (root / "checkpoints/step-00000010/model.safetensors" for root in (forced, anew))
    assert len({file.read_bytes() for file in weights}) == 2  # which is why
