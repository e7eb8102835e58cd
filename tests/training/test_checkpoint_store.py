"""Which checkpoints a store keeps, and its behaviour if the disk refuses a checkpoint."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dit_lab.training import checkpoint_store as module
from dit_lab.training.checkpoint_store import CheckpointNotWritten, CheckpointStore


def store_in(folder: Path, said: list[str], **keep: Any) -> CheckpointStore:
    return CheckpointStore(folder, run="here", warn=said.append, **keep)


def save(store: CheckpointStore, *steps: int) -> None:
    for step in steps:
        store.save(step, tensors={"model": {"w": torch.full((1000,), float(step))}}, state={})


def steps_in(folder: Path) -> list[int]:
    """Of all checkpoints; nothing else may lie there."""
    return sorted(int(path.name.removeprefix("step-")) for path in folder.iterdir())


@pytest.mark.parametrize(
    ("keep", "left"),
    [
        ({}, [1, 2, 3, 4, 5, 6, 7]),
        ({"keep_last": 1}, [7]),
        ({"keep_last": 3}, [5, 6, 7]),
        ({"keep_last": 2, "keep_every_steps": 3}, [3, 6, 7]),
        ({"keep_last": 9}, [1, 2, 3, 4, 5, 6, 7]),
    ],
)
def test_what_is_kept(tmp_path: Path, keep: dict[str, int], left: list[int]) -> None:
    said: list[str] = []
    save(store_in(tmp_path, said, **keep), *range(1, 8))
    assert (steps_in(tmp_path), said) == (left, [])


def test_only_what_is_older_than_a_whole_one_goes(tmp_path: Path) -> None:
    """After a fall-back to step 2, steps 3 and 4 are a damaged future: not this save's to judge."""
    save(store_in(tmp_path, []), 1, 2, 3, 4)
    for step in (3, 4):
        (tmp_path / f"step-{step:08d}/model.safetensors").write_bytes(b"")
    said: list[str] = []
    store = store_in(tmp_path, said, keep_last=1)
    assert store.latest().step == 2  # type: ignore[union-attr]
    save(store, 3)
    assert steps_in(tmp_path) == [3, 4]
    assert store.latest().step == 3  # type: ignore[union-attr]


def test_what_belongs_to_others_is_left(tmp_path: Path) -> None:
    """Of another run, or never finished: named when training resumes, not removed."""
    save(CheckpointStore(tmp_path, run="there", warn=pytest.fail), 1)
    save(store_in(tmp_path, []), 2, 3)
    (tmp_path / "step-00000002/COMPLETE").unlink()
    save(store_in(tmp_path, [], keep_last=1), 4)
    assert steps_in(tmp_path) == [1, 2, 4]


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_damaged_old_one_stops_no_save(tmp_path: Path, content: str) -> None:
    """Whose it is cannot be read, so it stays, for the next start to name."""
    save(store_in(tmp_path, []), 1, 2)
    (tmp_path / "step-00000001/state.json").write_text(content)
    save(store_in(tmp_path, [], keep_last=1), 3)
    assert steps_in(tmp_path) == [1, 3]


def test_half_removed_ones_are_cleared(tmp_path: Path) -> None:
    save(store_in(tmp_path, []), 1)
    shutil.copytree(tmp_path / "step-00000001", tmp_path / ".removing-step-00000000")
    save(store_in(tmp_path, []), 2)
    assert steps_in(tmp_path) == [1, 2]


# ---- a disk that does not take it ---------------------------------------------------------------


def failing(monkeypatch: pytest.MonkeyPatch, number: int, times: int) -> list[float]:
    """Renaming fails so often, as on a network disk that is away; what was slept."""
    slept: list[float] = []
    left = [times]
    replace = os.replace

    def maybe(source: Path, target: Path) -> None:
        if left[0]:
            left[0] -= 1
            raise OSError(number, os.strerror(number), str(source))
        replace(source, target)

    monkeypatch.setattr(module.os, "replace", maybe)
    monkeypatch.setattr(module, "time", SimpleNamespace(sleep=slept.append))
    return slept


def test_what_may_pass_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    slept = failing(monkeypatch, errno.EIO, 2)
    store = store_in(tmp_path, said)
    save(store, 5)
    assert slept == [1, 4]
    assert [line.split(" (")[0] for line in said] == ["step 5 could not be saved"] * 2
    assert store.latest().step == 5 and steps_in(tmp_path) == [5]  # type: ignore[union-attr]


@pytest.mark.parametrize(("number", "waits"), [(errno.ESTALE, [1, 4, 15]), (errno.EROFS, [])])
def test_what_does_not_pass_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, waits: list[float]
) -> None:
    """With the step that the next start goes on from; what was there before is still there."""
    save(store_in(tmp_path, [], keep_last=1), 5)
    slept = failing(monkeypatch, number, 100)
    with pytest.raises(CheckpointNotWritten, match=rf"step 6 could not .*{os.strerror(number)}"):
        save(store_in(tmp_path, [], keep_last=1), 6)
    assert slept == waits
    assert steps_in(tmp_path) == [5]


def test_room_is_looked_for_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written where 4,000 bytes do not fit; a disk without size is not asked."""
    save(store_in(tmp_path, []), 1)
    usage = SimpleNamespace(total=10_000, free=3_999)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: usage)
    monkeypatch.setattr(CheckpointStore, "_write_tensors", lambda *_: pytest.fail("written"))
    with pytest.raises(CheckpointNotWritten, match=r"0.0 MB are needed.*continues from step 1"):
        save(store_in(tmp_path, []), 2)
    monkeypatch.undo()
    usage = SimpleNamespace(total=0, free=0)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: usage)
    save(store_in(tmp_path, []), 2)
    assert steps_in(tmp_path) == [1, 2]
