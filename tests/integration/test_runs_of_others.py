"""Runs trained by others: results are stored below the user's own `paths.root`.

Impossible commands are refused before any work.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests import other_user

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(other_user.why_not()), reason=other_user.why_not()),
]

Done = "subprocess.CompletedProcess[str]"
Command = Callable[..., Done]
POWERS = ["ema.power_stds=[0.05,0.1]", "ema.snapshot_every_steps=2"]
MEASURED = ["evaluation.num_images=90", "sampler.steps=1"]


class Theirs(NamedTuple):
    """What somebody else has trained."""

    folder: Path  # where it was typed
    run: Path
    sweep: Path

    def times(self) -> dict[Path, int]:
        return {path: path.lstat().st_mtime_ns for path in self.folder.rglob("*")}


@pytest.fixture(scope="module")
def theirs(
    tmp_path_factory: pytest.TempPathFactory, forked_in: Command, tiny: list[str]
) -> Iterator[Theirs]:
    folder = tmp_path_factory.mktemp("theirs")
    short = [*tiny, "training.total_steps=4", "training.checkpoint_every_steps=2", "tracking=none"]
    for more in (["name=theirs", *POWERS], ["-m", "seed=1,2", "sweep.name=two"]):
        done = forked_in(folder, "train", *short, *more)
        assert done.returncode == 0, done.stderr
    (run,) = folder.glob("outputs/runs/theirs/*")
    (sweep,) = folder.glob("outputs/sweeps/*")
    other_user.give_away(folder)
    yield Theirs(folder, run, sweep)
    other_user.take_back(folder)


@pytest.fixture
def mine(tmp_path: Path, forked_in: Command) -> Command:
    """`mine("sample", ...)` in an empty folder of this user, who is not root."""
    first = other_user.AS_AN_ORDINARY_USER
    return lambda *typed, at=tmp_path: forked_in(at, *typed, first=first, few_trees=True)


def evaluations(folder: Path) -> list[Path]:
    return sorted(folder.glob("outputs/others/theirs/*/evaluations/*.json"))


def test_what_is_found_out_is_kept_below_my_own_root(
    theirs: Theirs, mine: Command, tmp_path: Path
) -> None:
    before, run = theirs.times(), f"run={theirs.run}"
    done = mine("sample", run, "out=drawn.png")
    assert (done.returncode, done.stderr) == (0, "")
    done = mine("evaluate", run, *MEASURED)
    assert (done.returncode, done.stderr) == (0, "")
    (written,) = evaluations(tmp_path)
    assert f"written: {written}" in done.stdout
    assert f"measured before: {written}" in mine("evaluate", run, *MEASURED).stdout
    done = mine("evaluate", "--compare", str(theirs.run), str(written))
    assert (done.returncode, done.stderr) == (0, "")
    assert "the same evaluation" in done.stdout
    done = mine("evaluate", "-m", run, MEASURED[0], "sampler.steps=1,2")
    assert (done.returncode, done.stderr) == (0, "")
    assert "sampler.steps=1: measured before" in done.stdout
    assert len(evaluations(tmp_path)) == 2
    done = mine("report", f"runs={theirs.run}")
    assert (done.returncode, done.stderr) == (0, "")
    assert "two_sample" in done.stdout  # the evaluation is found
    assert {path.name for path in tmp_path.iterdir()} == {"drawn.png", "outputs"}
    assert theirs.times() == before


def test_weights_made_of_theirs_are_mine(theirs: Theirs, mine: Command, tmp_path: Path) -> None:
    """A case that needs a place of its own: averages, pairs, exports, extensions."""
    before, run = theirs.times(), str(theirs.run)
    assert mine("ema", run, "--std", "0.15").returncode == 0
    drawn = mine("sample", f"run={run}", "out=a.png", "sample.weights=power:0.15")
    assert "power-0.15 at step 4" in drawn.stdout, drawn.stderr
    assert mine("export", run, "model.safetensors").returncode == 0
    done = mine("train", f"resume={run}", "training.total_steps=6", "tracking=none")
    assert done.returncode == 0, done.stderr
    assert "resumed at step 4" in done.stdout
    done = mine("reflow", f"run={run}", "pairs.sample.num_images=20", "training.total_steps=2")
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("outputs/others/theirs/*/pairs/*"))) == 1
    assert len(list(tmp_path.glob("outputs/runs/theirs*/*/status.json"))) == 2
    assert theirs.times() == before


def test_their_sweep(theirs: Theirs, mine: Command, tmp_path: Path) -> None:
    before, sweep = theirs.times(), str(theirs.sweep)
    assert "FINISHED" in mine("sweep", "status", sweep).stdout
    done = mine("report", sweep)
    assert (done.returncode, done.stderr) == (0, "")
    (page,) = tmp_path.glob("outputs/reports/*/report.html")
    assert f"in {page.parent}" in done.stdout
    done = mine("doctor", f"paths.root={theirs.folder}/outputs")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) == 4
    assert all("not changed: this user cannot write to it" in line for line in lines)
    assert theirs.times() == before


@pytest.mark.parametrize(
    "typed",
    [
        ("evaluate", "run=RUN", *MEASURED),
        ("evaluate", "-m", "run=RUN", "evaluation.num_images=90", "sampler.steps=1,2"),
        ("report", "RUN"),
        ("report", "SWEEP"),
        ("sample", "run=RUN", "out=drawn.png"),
        ("export", "RUN", "model.safetensors"),
        ("reflow", "run=RUN", "training.total_steps=2"),
        ("train", "resume=RUN", "training.total_steps=6"),
    ],
    ids=lambda typed: " ".join(typed[:2]),
)
def test_in_their_folder_nothing_is_begun(
    typed: tuple[str, ...], theirs: Theirs, mine: Command
) -> None:
    """Everything that is relative lies in their folder then, `outputs` as well."""
    before = theirs.times()
    words = [word.replace("RUN", str(theirs.run)) for word in typed]
    done = mine(*(w.replace("SWEEP", str(theirs.sweep)) for w in words), at=theirs.folder)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "cannot write" in line or "no right to write" in line
    assert "drawing" not in done.stdout
    assert theirs.times() == before


def test_their_run_in_a_root_of_all(
    theirs: Theirs, mine: Command, tmp_path: Path, tiny: list[str]
) -> None:
    """Everybody can write to `outputs`, and nobody but its owner to a run."""
    shutil.copytree(theirs.folder / "outputs", tmp_path / "outputs", symlinks=True)
    (run,) = tmp_path.glob("outputs/runs/theirs/*")
    status = run / "status.json"
    status.write_text(status.read_text().replace("FINISHED", "KILLED"))
    other_user.give_away(run)
    short = [*tiny, "training.total_steps=4", "training.checkpoint_every_steps=2", "tracking=none"]
    try:
        finished = status.read_text().replace("KILLED", "FINISHED")
        done = mine("train", *short, "name=theirs")
        assert done.returncode == 2
        assert f"{run}: this user cannot write to {run.name}; give another" in done.stderr
        assert len(done.stderr.splitlines()) == 1
        done = mine("evaluate", f"run={run}", *MEASURED)
        assert (done.returncode, done.stderr) == (0, "")
        assert len(evaluations(tmp_path)) == 1

        status.write_text(finished)
        before = {path: path.lstat().st_mtime_ns for path in run.rglob("*")}
        done = mine("train", *short, *POWERS, "name=theirs")
        assert (done.returncode, done.stderr) == (0, "")
        assert "already finished" in done.stdout
        more = ["evaluation.num_images=96", "sample.num_images=3"]
        done = mine("train", *short, *POWERS, "name=theirs", *more)
        assert (done.returncode, done.stderr) == (0, "")
        assert len(evaluations(tmp_path)) == 2
        assert len(list(tmp_path.glob("outputs/others/theirs/*/samples/*.png"))) == 1
        assert {path: path.lstat().st_mtime_ns for path in run.rglob("*")} == before
    finally:
        other_user.take_back(run)


# ---- what may not even be read ------------------------------------------------------------------


@pytest.fixture
def hidden(theirs: Theirs) -> Iterator[Callable[[str], Path]]:
    """`hidden(pattern)` is a file or folder of the run that its owner keeps to themselves."""
    changed: list[tuple[Path, int]] = []

    def hide(pattern: str) -> Path:
        (path,) = theirs.run.parent.glob(pattern)
        changed.append((path, path.stat().st_mode))
        path.chmod(0)
        return path

    yield hide
    for path, mode in changed:
        path.chmod(mode)


READS_WEIGHTS: list[tuple[str, ...]] = [
    ("sample", "run=RUN", "out=drawn.png"),
    ("evaluate", "run=RUN", *MEASURED),
    ("export", "RUN", "model.safetensors"),
    ("reflow", "run=RUN"),
    ("train", "resume=RUN", "training.total_steps=6"),
    ("train", "TINY", "name=begun", "init_from=RUN"),
    ("train", "TINY", "name=guided", "guidance.weak_run=RUN", "guidance.scale=2"),
]


@pytest.mark.parametrize("typed", READS_WEIGHTS, ids=lambda typed: " ".join(typed[:3]))
def test_weights_for_their_owner_alone(
    typed: tuple[str, ...],
    theirs: Theirs,
    hidden: Callable[[str], Path],
    mine: Command,
    tmp_path: Path,
    tiny: list[str],
) -> None:
    """As earlier versions left them."""
    file = hidden("*/checkpoints/step-00000004/ema-0.9.safetensors")
    words = [word.replace("RUN", str(theirs.run)) for word in typed]
    done = mine(*(part for word in words for part in (tiny if word == "TINY" else [word])))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f"{file}: this user may not read it; its owner can allow that" in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "typed",
    [*READS_WEIGHTS, ("report", "RUN"), ("ema", "RUN", "--std", "0.1"), ("doctor", "ROOT")],
    ids=lambda typed: " ".join(typed[:3]),
)
def test_a_folder_for_its_owner_alone(
    typed: tuple[str, ...],
    theirs: Theirs,
    hidden: Callable[[str], Path],
    mine: Command,
    tmp_path: Path,
    tiny: list[str],
) -> None:
    """A umask of 077."""
    folder = hidden("../../runs" if typed[0] == "doctor" else theirs.run.name)
    if typed[0] == "doctor":
        folder.chmod(0o755)
        folder = folder.parent
        folder.chmod(0)
    words = [word.replace("RUN", str(theirs.run)) for word in typed]
    words = [word.replace("ROOT", f"paths.root={theirs.folder}/outputs") for word in words]
    try:
        done = mine(*(part for word in words for part in (tiny if word == "TINY" else [word])))
    finally:
        if typed[0] == "doctor":
            folder.chmod(0o755)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "this user may not read it; its owner can allow that" in line
    assert list(tmp_path.iterdir()) == []


def test_what_others_find_of_my_runs_is_no_run(
    theirs: Theirs, mine: Command, tmp_path: Path, runs_in: Callable[..., list[Any]]
) -> None:
    assert mine("evaluate", f"run={theirs.run}", *MEASURED).returncode == 0
    assert runs_in(tmp_path, "theirs") == []
    done = mine("doctor", f"paths.root={tmp_path}/outputs")
    assert done.returncode == 2
    assert "holds no runs" in done.stderr
