"""Schedule-free runs: the averaged weights are evaluated, sampled, exported and fine-tuned."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import dit_lab
from dit_lab.runs.metrics import read_metrics
from dit_lab.training.checkpoint import Checkpoint

pytestmark = pytest.mark.slow

Forked = Callable[..., "subprocess.CompletedProcess[str]"]
FREE = ["optimizer=schedule_free_adamw", "schedule.warmup_steps=5", "tracking=none"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, forked_in: Forked, tiny: list[str]) -> Path:
    folder = tmp_path_factory.mktemp("free")
    for more in (["ema.decays=[]"], ["name=both"]):
        done = forked_in(folder, "train", *tiny, *FREE, *more)
        assert done.returncode == 0, done.stderr
    return folder


def checkpoint(folder: Path, name: str) -> Checkpoint:
    (run,) = folder.glob(f"outputs/runs/{name}/*")
    return Checkpoint(run / "checkpoints/step-00000040")


def test_it_is_the_first_average(folder: Path) -> None:
    alone, both = checkpoint(folder, "tiny"), checkpoint(folder, "both")
    assert list(alone.state()["emas"]) == ["schedule_free"]
    assert set(both.state()["emas"]) == {"schedule_free", "ema-0.9"}
    assert both.state()["emas"]["schedule_free"] == {"num_updates": 40.0}
    for name, tensor in alone.tensors("schedule_free").items():
        assert torch.equal(both.tensors("schedule_free")[name], tensor)
    path = checkpoint(folder, "both").path.parent.parent
    for weights, name in (
        ("ema", "schedule_free"), ("schedule_free", "schedule_free"), ("ema:0.9", "ema-0.9"),
        ("raw", "model"),
    ):  # fmt: skip
        model = dit_lab.load(path, weights=weights)
        assert model.weights == name
        for key, tensor in both.tensors(name).items():
            assert torch.equal(model.model.state_dict()[key], tensor)


def test_training_evaluates_it(folder: Path) -> None:
    """The loss on held-out images is that of the average, with and without another one."""
    losses = []
    for name in ("tiny", "both"):
        (file,) = folder.glob(f"outputs/runs/{name}/*/metrics.jsonl")
        rows = [row.metrics for row in read_metrics(file)]
        losses.append([row["eval/loss"] for row in rows if "eval/loss" in row])
    assert len(losses[0]) == 2 and losses[0] == losses[1]


def test_it_is_exported_drawn_and_begun_with(
    folder: Path, forked_in: Forked, tiny: list[str]
) -> None:
    path = str(checkpoint(folder, "tiny").path.parent.parent)
    for words in (
        ("export", path, "free.safetensors"),
        ("sample", f"run={path}", "out=one.npz"),
        ("sample", "run=free.safetensors", "out=two.npz"),
        ("train", *tiny, f"init_from={path}", "name=begun", "training.total_steps=1"),
    ):
        done = forked_in(folder, *words)
        assert done.returncode == 0, done.stderr
    average = checkpoint(folder, "tiny").tensors("schedule_free")
    exported = load_file(folder / "free.safetensors")
    assert all(torch.equal(exported[name], tensor) for name, tensor in average.items())
    assert (folder / "one.npz").read_bytes() == (folder / "two.npz").read_bytes()
    (begun,) = folder.glob("outputs/runs/begun/*/identity.json")
    assert json.loads(begun.read_text())["initial_weights"].endswith("at step 40, schedule_free")
    refused = forked_in(folder, "sample", f"run={path}", "sample.weights=ema:0.9", "out=no.npz")
    assert refused.returncode == 2
    assert "sample.weights=ema:0.9: not kept; allowed: raw, ema, schedule_free" in refused.stderr
