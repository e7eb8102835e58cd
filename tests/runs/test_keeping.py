"""Disk usage of runs, and which checkpoints may be deleted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dit_lab.runs.folder import RunFolder, write_json
from dit_lab.runs.keeping import (
    freed_by,
    listed,
    remove_whole,
    runs_below,
    size_of,
    superfluous,
)
from tests.records import STATUS


def file(path: Path, size: int = 10) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    return path


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run with checkpoints at steps 2, 4, 6, 8 and 10, of which the last was not completed."""
    folder = RunFolder(tmp_path / "runs/name/0123456789ab")
    for step in (2, 4, 6, 8, 10):
        file(folder.checkpoints / f"step-{step:08d}/model.safetensors", size=1000)
        if step < 10:
            file(folder.checkpoints / f"step-{step:08d}/COMPLETE", size=0)
    file(folder.checkpoints / "step-00000002.bak/COMPLETE", size=0)
    write_json(folder.status, STATUS)
    return folder


def steps(paths: list[Path]) -> list[int]:
    return [int(path.name.removeprefix("step-")) for path in paths]


@pytest.mark.parametrize(
    ("keep", "every", "wanted", "expected"),
    [
        (2, 0, (), [2, 4]),
        (1, 0, (), [2, 4, 6]),
        (4, 0, (), []),
        (9, 0, (), []),
        (1, 4, (), [2, 6]),
        (1, 0, ("step-00000004",), [2, 6]),
        (1, 0, ("step-00000004/model.safetensors", "step-00000006"), [2]),
        (1, 0, ("step-00000008",), [2, 4, 6]),
        (1, 0, ("",), [2, 4, 6]),  # the run as a whole needs its newest one
    ],
)
def test_which_checkpoints_may_go(
    keep: int, every: int, wanted: tuple[str, ...], expected: list[int], run: RunFolder
) -> None:
    """One that was not completed counts for nothing, and stays."""
    paths = [run.checkpoints / name for name in wanted]
    found = superfluous(run, keep=keep, keep_every_steps=every, wanted=paths)
    assert steps(found) == expected


def test_a_checkpoint_that_is_wanted_by_another_path(run: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "runs")
    other = tmp_path / "link/name/0123456789ab/checkpoints/step-00000002"
    assert steps(superfluous(run, keep=2, wanted=[other])) == [4]


def test_files_with_several_names_count_once(run: RunFolder, tmp_path: Path) -> None:
    before = size_of([run.root])
    extended = tmp_path / "runs/name/ba9876543210"
    extended.mkdir()
    os.link(run.checkpoints / "step-00000008/model.safetensors", extended / "model.safetensors")
    assert size_of([run.root]) == before
    assert size_of([run.root, extended]) == before
    assert freed_by([run.root]) == before - 1000  # it stays in the run that goes on from this one
    assert freed_by([extended]) == 0
    assert freed_by([run.root, extended]) == before
    assert size_of([tmp_path / "nowhere"]) == 0


def test_every_run_is_listed(run: RunFolder, tmp_path: Path) -> None:
    """One that was killed before it had a status, and one with a damaged one, too."""
    file(tmp_path / "runs/name/killed/config.yaml")
    file(tmp_path / "runs/other/damaged/status.json")
    file(tmp_path / "runs/other/.removing-gone/status.json")
    file(tmp_path / "others/name/hash/evaluations/0123456789ab.json")
    found = [listed(one) for one in runs_below(tmp_path)]
    assert [(one.run, one.status, one.step) for one in found] == [
        ("name/0123456789ab", "FINISHED", 4),
        ("name/killed", "?", 0),
        ("other/damaged", "?", 0),
    ]
    assert found[0].bytes == size_of([run.root]) > 5000
    assert found[0].updated == 1e9


def test_a_removal_that_was_cut_off_is_done_again(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It leaves nothing that looks like a run."""

    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            remove_whole(run.root)
    assert runs_below(tmp_path) == []
    assert [path.name for path in run.root.parent.iterdir()] == [".removing-0123456789ab"]
    file(run.status)
    remove_whole(run.root)
    assert list(run.root.parent.iterdir()) == []


def test_a_link_to_a_run_goes_and_the_run_stays(run: RunFolder, tmp_path: Path) -> None:
    moved = tmp_path / "large-disk"
    os.rename(run.root, moved)
    run.root.symlink_to(moved)
    remove_whole(run.root)
    assert not run.root.is_symlink()
    assert (moved / "checkpoints/step-00000008/model.safetensors").exists()
    assert (moved / "status.json").exists()
