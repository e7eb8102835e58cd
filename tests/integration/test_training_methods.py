"""Training methods by the real command: zero strength, sampling, export, beginnings, extension."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dit_lab.interop.files import read_safetensors
from dit_lab.training.checkpoint import Checkpoint

Command = Callable[..., "subprocess.CompletedProcess[str]"]
METHODS = (
    "repa", "sra", "dispersive", "contrastive", "tread", "sprint", "internal_guidance",
)  # fmt: skip

pytestmark = pytest.mark.slow


@pytest.fixture
def train(forked: Command, tmp_path: Path, tiny: list[str]) -> Callable[..., Path]:
    """Trains and returns the folder of the run."""
    kept = [text for text in tiny if not text.startswith(("objective=", "sampler="))]
    common = ["train", *kept, "objective=rectified_flow", "tracking=none", "model.depth=4"]

    def call(name: str, *changes: str) -> Path:
        done = forked(*common, f"name={name}", *changes)
        assert done.returncode == 0, done.stderr
        (run,) = (tmp_path / "outputs/runs" / name).iterdir()
        return run

    return call


def weights(run: Path, step: int = 20, group: str = "model") -> dict[str, Any]:
    return Checkpoint(run / f"checkpoints/step-{step:08d}").tensors(group)


def rows(run: Path) -> list[dict[str, float]]:
    return [json.loads(line)["metrics"] for line in (run / "metrics.jsonl").open()]


def test_zero_strength_is_no_method_in_every_bit(train: Callable[..., Path]) -> None:
    steps = "training.total_steps=20"
    off = [
        f"method.{name}.{'share' if name in ('tread', 'sprint') else 'weight'}=0"
        for name in METHODS
    ]
    plain = train("plain", steps)
    zero = train("zero", steps, f"method=[{','.join(METHODS)}]", *off)
    for group in ("model", "ema-0.9", "optimizer/state"):
        found, expected = weights(zero, group=group), weights(plain, group=group)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_internal_guidance_samples_in_one_evaluation(
    train: Callable[..., Path], forked: Command, tmp_path: Path
) -> None:
    """The early output is exported with the model; projections are not, and the file says alike."""
    run = train("guided", "method=[internal_guidance,sra]", "training.total_steps=20")
    assert any(name.startswith("heads.sra.") for name in weights(run))
    assert forked("export", str(run), "guided.safetensors").returncode == 0
    names = read_safetensors(tmp_path / "guided.safetensors")
    assert any(name.startswith("heads.early.") for name in names)
    assert not any(name.startswith("heads.sra.") for name in names)
    pictures = {}
    for out, source, more in (
        ("plain.npz", str(run), []),
        ("run.npz", str(run), ["guidance.kind=internal", "guidance.scale=1000"]),
        ("file.npz", "guided.safetensors", ["guidance.kind=internal", "guidance.scale=1000"]),
    ):
        how = ["sampler=euler", "sampler.steps=3", "sample.num_images=4", *more]
        drawn = forked("sample", f"run={source}", f"out={out}", *how)
        assert drawn.returncode == 0, drawn.stderr
        assert "NFE 3" in drawn.stdout
        pictures[out] = np.load(tmp_path / out)["arr_0"]
    assert (pictures["run.npz"] == pictures["file.npz"]).all()
    assert (pictures["run.npz"] != pictures["plain.npz"]).any()


def test_methods_come_and_go(train: Callable[..., Path], forked: Command) -> None:
    """A training begins from weights with or without heads; a run is not extended by methods."""
    short = "training.total_steps=5"
    plain = train("plain", short)
    with_head = train("with", short, "method=[sra]", f"init_from={plain}")
    without = train("without", short, f"init_from={with_head}")
    assert any(name.startswith("heads.") for name in weights(with_head, 5))
    assert not any(name.startswith("heads.") for name in weights(without, 5))
    more = ["training.total_steps=9", "tracking=none"]
    changed = forked("train", f"resume={plain}", "method=[sra]", *more)
    assert changed.returncode == 2
    assert "method" in changed.stderr
    longer = forked("train", f"resume={with_head}", *more)
    assert longer.returncode == 0, longer.stderr


def test_a_part_of_a_training_depends_on_its_end(
    train: Callable[..., Path], forked: Command
) -> None:
    run = train("half", "training.total_steps=5", "method=[sprint]")
    longer = forked("train", f"resume={run}", "training.total_steps=9", "tracking=none")
    assert longer.returncode == 2
    assert "method=sprint depends on training.total_steps, so a run of 9 steps" in longer.stderr


def test_terms_are_logged_by_the_name_of_the_method(train: Callable[..., Path]) -> None:
    """And the validation loss is that of the objective alone."""
    group = "method.contrastive.group_images=8"
    run = train("terms", "training.total_steps=5", "method=[contrastive,tread]", group)
    last = [row for row in rows(run) if "train/loss" in row][-1]
    assert last["train/loss"] == pytest.approx(
        last["train/objective"] + last["train/contrastive/loss"], rel=1e-5
    )
    assert last["train/tread/loss"] == 0
    assert any(row.get("eval/loss", 0) > 0 for row in rows(run))
