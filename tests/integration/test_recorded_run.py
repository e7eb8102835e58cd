"""Compatibility: records of an earlier version of the lab are still read.

`tests/data/recorded_run` holds a run on the digits (width 16, 4 steps), its evaluation and its
exported weights, as written by the version of 2026-11-29. They are never rewritten.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest

DATA = Path(__file__).resolve().parents[1] / "data/recorded_run"
HASH = "17e8b325db9c"
COMMAND = [
    "experiment=quickstart", "model.hidden_size=16", "model.depth=1", "model.num_heads=2",
    "patch=4", "schedule=constant", "training.total_steps=4", "training.checkpoint_every_steps=4",
    "training.sample_every_steps=0", "training.validate_every_steps=4", "sampler=euler",
    "sampler.steps=2", "evaluation.num_images=40", "tracking.backend=none", "name=recorded",
]  # fmt: skip
"""What it was trained by."""

SUM_OF_PIXELS = 32_852
"""Of four samples, seed 0, as that version drew them."""

Command = Callable[..., CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The run, where the command that trained it looks for it."""
    runs = tmp_path / "outputs/runs/recorded"
    shutil.copytree(DATA / "recorded", runs)
    return runs / HASH


def test_the_same_command_finds_it(run: Path, forked: Command) -> None:
    """So the train hash is what it was. Its code hash is of before code had a meaning."""
    done = forked("train", *COMMAND)
    assert done.returncode == 0, done.stderr
    assert "was recorded by a version with other code hashes" in done.stdout
    assert "already finished" in done.stdout
    assert [folder.name for folder in run.parent.iterdir()] == [HASH]


def test_it_goes_on(run: Path, forked: Command) -> None:
    root = f"paths.root={run.parents[2]}"
    done = forked(
        "train", f"resume={run}", "training.total_steps=6", "evaluation.num_images=0", root
    )
    assert done.returncode == 0, done.stderr
    (longer,) = set(run.parent.iterdir()) - {run}
    identity = json.loads((longer / "identity.json").read_text())
    assert identity["ancestors"] == [HASH] and identity["forced_over"] == []
    assert json.loads((longer / "status.json").read_text())["step"] == 6


@pytest.mark.parametrize("of", ["run", "file"])
def test_it_is_sampled(run: Path, forked: Command, tmp_path: Path, of: str) -> None:
    """Both are the same weights."""
    given = {"run": run, "file": DATA / "exported.safetensors"}[of]
    done = forked("sample", f"run={given}", "out=images.npz", "sample.num_images=4")
    assert done.returncode == 0, done.stderr
    images = np.load(tmp_path / "images.npz")["arr_0"]
    assert images.shape == (4, 8, 8, 1)
    # 17 levels of brightness are 16 apart; by another processor four pixels may round otherwise
    assert abs(images.astype(int).sum() - SUM_OF_PIXELS) <= 4 * 16


def test_its_card_is_compared(run: Path, forked: Command) -> None:
    (card,) = (run / "evaluations").iterdir()
    done = forked("evaluate", "--compare", str(card), str(run))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "two_sample" in done.stdout
