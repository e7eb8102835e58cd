"""Collective operations and saving with two processes."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch

from dit_lab.training.checkpoint import Checkpoint
from dit_lab.training.checkpoint_store import CheckpointStore
from tests.integration.conftest import fork_code
from tests.integration.small_training import in_processes

pytestmark = pytest.mark.slow

in_processes = partial(in_processes, fork_code)


def test_two_agree(tmp_path: Path) -> None:
    """On results and on errors; a signal to one stops both."""
    in_processes(2, "agree", folder=str(tmp_path))
    first, second = (json.loads((tmp_path / f"{index}.json").read_text()) for index in (0, 1))
    assert (
        first
        == second
        == {
            "first": 10,
            "every": [10, 11],
            "largest": 1,
            "shared": [[0, 0], [1, 1], [2, 0], [3, 1], [4, 0]],
            "raised": ["OSError", "[Errno 28] disk full: 'there'"],
            "odd": ["RuntimeError", "OddError: lock and key"],
            "stopped": 10,
        }
    )


def test_a_disk_that_is_full_for_one(tmp_path: Path) -> None:
    """Both say so, nothing half written is left, and the next save has everything."""
    in_processes(2, "save_on_a_full_disk", folder=str(tmp_path))
    for index in (0, 1):
        refused, left, saved = json.loads((tmp_path / f"said-{index}.json").read_text())
        assert "step 0 could not be saved (File too large)" in refused
        assert "continues from the start" in refused
        assert left == []
        assert saved == "saved"
    checkpoint = Checkpoint(tmp_path / "step-00000000")
    checkpoint.verify()
    assert len(checkpoint.tensors("model")) == len(checkpoint.tensors("ema-0.9"))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    in_processes(2, "train", folder=str(folder), steps=10, sharded=True)
    return folder


@pytest.mark.parametrize("damage", ["flipped", "truncated", "missing"])
def test_one_damaged_shard_and_the_one_before_is_taken(
    tmp_path: Path, shards: Path, damage: str
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(shards, folder)
    file = folder / "step-00000010/ema-0.9/shard-00002-model-00001-of-00001.safetensors"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content if damage == "flipped" else content[:100])
    if damage == "missing":
        file.unlink()
    said: list[str] = []
    latest = CheckpointStore(folder, run="here", warn=said.append).latest()
    assert latest is not None and latest.step == 5
    assert len(said) == 1 and str(file) in said[0]
    in_processes(2, "train", folder=str(folder), steps=10, sharded=True)
    again, before = (Checkpoint(f / "step-00000010") for f in (folder, shards))
    for group in ("model", "ema-0.9", "ema-0.5", "optimizer/state"):
        for name, tensor in before.tensors(group).items():
            assert torch.equal(again.tensors(group)[name], tensor)
