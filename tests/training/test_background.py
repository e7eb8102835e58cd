"""Checkpoints saved asynchronously contain the state at the time of the request."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from dit_lab.training.background import BackgroundSaver
from dit_lab.training.checkpoint import Checkpoint
from dit_lab.training.checkpoint_store import CheckpointNotWritten, CheckpointStore


class SlowStore(CheckpointStore):
    """Writes when it is let go on; fails at steps that it is told."""

    def __init__(self, folder: Path, *, fails_at: int | None = None) -> None:
        super().__init__(folder, run="here", warn=pytest.fail)
        self.go_on = threading.Event()
        self.fails_at = fails_at

    def save(self, step: int, **content: Any) -> Checkpoint:
        assert self.go_on.wait(timeout=30)
        if step == self.fails_at:
            raise CheckpointNotWritten(f"step {step}")
        return super().save(step, **content)


def test_it_holds_what_was_there(tmp_path: Path) -> None:
    """Training changes its weights in place at once; nothing is on the disk yet."""
    store = SlowStore(tmp_path)
    saver = BackgroundSaver(store)
    weights, scalars = torch.zeros(3), {"step": 1}
    saver.save(1, tensors={"model": {"w": weights}}, state=scalars)
    saver.check()
    weights.fill_(7)
    assert store.latest() is None
    store.go_on.set()
    saver.wait()
    checkpoint = store.latest()
    assert checkpoint is not None and checkpoint.step == 1
    assert checkpoint.tensors("model")["w"].tolist() == [0, 0, 0]


def test_one_after_the_other(tmp_path: Path) -> None:
    """The second waits for the first, so that no memory piles up and no newer one comes first."""
    store = SlowStore(tmp_path)
    saver = BackgroundSaver(store)
    saver.save(1, tensors={"model": {"w": torch.zeros(3)}}, state={})
    second = threading.Thread(
        target=saver.save,
        args=(2,),
        kwargs={"tensors": {"model": {"w": torch.ones(3)}}, "state": {}},
    )
    second.start()
    second.join(timeout=0.2)
    assert second.is_alive() and store.latest() is None
    store.go_on.set()
    second.join(timeout=30)
    saver.wait()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001", "step-00000002"]


@pytest.mark.parametrize("next_call", ["check", "wait", "save"])
def test_what_goes_wrong_is_raised_by_the_next_call(tmp_path: Path, next_call: str) -> None:
    """Once: the checkpoint after it may be written again."""
    store = SlowStore(tmp_path, fails_at=1)
    store.go_on.set()
    saver = BackgroundSaver(store)
    asked: dict[str, Any] = {"tensors": {"model": {"w": torch.zeros(3)}}, "state": {}}
    saver.save(1, **asked)
    assert saver._writing is not None
    saver._writing.exception(timeout=30)  # until it is known
    with pytest.raises(CheckpointNotWritten, match="step 1"):
        saver.save(2, **asked) if next_call == "save" else getattr(saver, next_call)()
    saver.save(3, **asked)
    saver.wait()
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000003"]
