"""Few-step objectives by the real command: kills, beginnings from flows, export, extension."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import dit_lab
from dit_lab.interop.files import read_safetensors
from dit_lab.training.checkpoint import Checkpoint
from tests.random_weights import random_weights

Command = Callable[..., "subprocess.CompletedProcess[str]"]
RunIn = Callable[[Path], Any]

SIT = {
    "input_size": (8, 8), "patch_size": 2, "in_channels": 1, "hidden_size": 16, "depth": 2,
    "num_heads": 2, "num_classes": 10, "learn_sigma": False,
}  # fmt: skip
OBJECTIVES = ("mean_flow", "improved_mean_flow", "shortcut", "consistency")
KILLS = """
import os
import time
from pathlib import Path

from dit_lab.core.types import Hook


class Kills(Hook):
    def on_metrics(self, step, metrics):
        if step == 25 and Path("kill").exists():
            while not list(Path().glob("outputs/runs/*/*/checkpoints/step-00000020/COMPLETE")):
                time.sleep(0.01)
            Path("kill").unlink()
            os.kill(os.getpid(), 9)
"""


@pytest.fixture
def train(tmp_path: Path, tiny: list[str]) -> Callable[..., list[str]]:
    """The command that trains an objective, with a hook that kills it once `kill` exists."""
    (tmp_path / "kills.py").write_text(KILLS)
    (tmp_path / "conf/hook").mkdir(parents=True)
    (tmp_path / "conf/hook/kills.yaml").write_text("kills: {_target_: kills.Kills}\n")
    kept = [text for text in tiny if not text.startswith(("objective=", "sampler="))]
    more = ["hook=[kills]", "trusted_modules=[kills]", "tracking=none", "model.depth=2"]
    return lambda objective, *changes: ["train", *kept, f"objective={objective}", *more, *changes]


@pytest.mark.slow
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_killed_run_ends_in_the_same_bits(
    tmp_path: Path, train: Any, forked: Command, run_in: RunIn, objective: str
) -> None:
    straight = forked(*train(objective), "paths.root=straight")
    assert straight.returncode == 0, straight.stderr
    (tmp_path / "kill").touch()
    assert forked(*train(objective)).returncode == -signal.SIGKILL
    again = forked(*train(objective))
    assert again.returncode == 0, again.stderr
    assert "resumed at step 20" in again.stdout
    (expected,) = (tmp_path / "straight/runs").glob("*/*")
    found = run_in(tmp_path)
    for name in ("model", "ema-0.9", "optimizer/state"):
        ours, theirs = (
            Checkpoint(run / "checkpoints/step-00000040").tensors(name)
            for run in (found.root, expected)
        )
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), name


@pytest.mark.slow
def test_an_imported_flow_is_the_model_at_once(
    tmp_path: Path, train: Any, forked: Command, run_in: RunIn
) -> None:
    """SiT weights: at s = t and from t to s, and the second head predicts the same velocity.

    The exported file has no head, samples alike and begins another run.
    """
    torch.save(random_weights(**SIT), tmp_path / "SiT.pt")
    into = ["model.num_heads=2", "precision=fp32", "dataset=digits"]
    assert forked("import", "SiT.pt", "--out", "flow", *into).returncode == 0
    flow = dit_lab.load(tmp_path / "flow")
    config = flow.parts.config
    width = [f"model.{key}={getattr(config.model, key)}" for key in ("hidden_size", "num_heads")]
    begun = [
        *width, f"model.depth={config.model.depth}", f"model.patch_size={config.model.patch_size}",
        "objective.time_scale=1", "init_from=flow",
    ]  # fmt: skip
    command = train("improved_mean_flow", *begun, "objective.velocity_blocks=1")
    # One step of rate zero keeps the weights.
    done = forked(*command, "training.total_steps=1", "optimizer.lr=1e-30")
    assert done.returncode == 0, done.stderr
    run = run_in(tmp_path)
    weights = Checkpoint(run.root / "checkpoints/step-00000001").tensors("model")
    trained = dit_lab.load(run.root)
    assert not any(name.startswith("heads.") for name in trained.model.state_dict())
    x, t = torch.randn(3, 1, 8, 8), torch.tensor([0.1, 0.5, 0.9])
    labels = torch.tensor([0, 3, 10])
    given = {"guidance": t, "guidance_from": t, "guidance_until": t}
    with torch.no_grad():
        expected = flow.model(x, t, labels)
        for s in (t, t + 0.1):
            assert torch.equal(trained.model(x, t, labels, to=s, conditions=given), expected)
    last = config.model.depth - 1
    for name in ("attn.qkv.weight", "mlp.fc1.bias"):
        head = weights[f"heads.velocity.blocks.0.{name}"]
        assert torch.equal(head, weights[f"blocks.{last}.{name}"])

    assert forked("export", str(run.root), "few.safetensors").returncode == 0
    assert not any(n.startswith("heads.") for n in read_safetensors(tmp_path / "few.safetensors"))
    pictures = []
    for source in (str(run.root), "few.safetensors"):
        out = f"{len(pictures)}.npz"
        how = ["sampler.steps=2", "sample.num_images=4", "guidance.scale=2"]
        drawn = forked("sample", f"run={source}", f"out={out}", *how)
        assert drawn.returncode == 0, drawn.stderr
        assert "NFE 2" in drawn.stdout  # guidance is inside
        pictures.append((tmp_path / out).read_bytes())
    assert pictures[0] == pictures[1]
    refused = forked("export", str(run.root), "x.pt", "--format", "sit")
    assert "--format sit: describes models that are sampled step by step" in refused.stderr
    again = train("mean_flow", *begun[:-1], "init_from=few.safetensors", "name=again")
    tuned = forked(*again, "training.total_steps=5")
    assert tuned.returncode == 0, tuned.stderr


@pytest.mark.slow
def test_stages_depend_on_the_end(tmp_path: Path, train: Any, forked: Command) -> None:
    for objective, refused in (("consistency", True), ("mean_flow", False)):
        assert forked(*train(objective, f"name={objective}")).returncode == 0
        (run,) = (tmp_path / "outputs/runs" / objective).iterdir()
        more = ["training.total_steps=60", "trusted_modules=[kills]", "tracking=none"]
        longer = forked("train", f"resume={run}", *more)
        assert (longer.returncode != 0) == refused, longer.stderr
        said = "objective=consistency depends on training.total_steps, so a run of 60 steps is not"
        assert (said in longer.stderr) == refused
