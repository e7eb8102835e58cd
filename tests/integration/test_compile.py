"""Compiled blocks: the same training and the same images up to rounding."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

import dit_lab
from dit_lab.evaluation.card import read_evaluation
from dit_lab.training.parallel import with_weights

pytestmark = pytest.mark.slow

Command = Callable[..., "subprocess.CompletedProcess[str]"]
RunIn = Callable[[Path], Any]

SHORT = [
    "tracking=none", "training.total_steps=12", "training.log_every_steps=1", "optimizer.lr=0.01",
    "training.sample_every_steps=0", "training.checkpoint_every_steps=0", "model.depth=2",
]  # fmt: skip


@pytest.fixture(scope="module")
def plain(
    tmp_path_factory: pytest.TempPathFactory, forked_in: Command, tiny: list[str], run_in: RunIn
) -> Any:
    folder = tmp_path_factory.mktemp("plain")
    done = forked_in(folder, "train", *tiny, *SHORT)
    assert done.returncode == 0, done.stderr
    return run_in(folder)


def test_a_compiled_training_is_the_same_training(
    plain: Any, forked: Command, tiny: list[str], tmp_path: Path, run_in: RunIn
) -> None:
    """The same run, names of weights and losses; evaluations do not know of it."""
    done = forked("train", *tiny, *SHORT, "training.compile=true")
    assert done.returncode == 0, done.stderr
    found = run_in(tmp_path)
    assert found.root.name == plain.root.name
    compared = 0
    for (step, row), (_, expected) in zip(found.rows(), plain.rows(), strict=True):
        assert row.keys() == expected.keys()
        for name, value in row.items():
            assert value == pytest.approx(expected[name], rel=1e-4), (step, name)
            compared += 1
    assert compared > 24
    names = []
    for run in (found, plain):
        with safe_open(run.checkpoint(12) / "model.safetensors", framework="pt") as weights:
            names.append(set(weights.keys()))
    assert names[0] == names[1]


def test_images_of_compiled_blocks_are_the_same(
    plain: Any, forked: Command, tmp_path: Path
) -> None:
    """To one level of brightness; guidance within an interval makes batches of two sizes."""
    found = []
    for name, compiled in (("plain", "false"), ("compiled", "true")):
        done = forked(
            "sample", f"run={plain.root}", f"out={name}.npz", "sampler=euler", "sampler.steps=6",
            "guidance.scale=2", "guidance.interval=[0.2,0.8]", f"sample.compile={compiled}",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        with np.load(tmp_path / f"{name}.npz") as stored:
            found.append(stored["arr_0"].astype(int))
    assert np.abs(found[0] - found[1]).max() <= 1
    assert found[0].std() > 10


def test_a_card_says_what_drew(
    forked: Command, tiny: list[str], tmp_path: Path, run_in: RunIn
) -> None:
    """A training draws with plain blocks, whatever is chosen for what draws from its run later."""
    chosen = ["sample.compile=true", "evaluation.num_images=120", "training.total_steps=2"]
    kept = [
        text
        for text in (*tiny, *SHORT)
        if text.partition("=")[0] not in {c.partition("=")[0] for c in chosen}
    ]
    done = forked("train", *kept, *chosen)
    assert done.returncode == 0, done.stderr
    run = run_in(tmp_path).root
    assert dtypes(run) == ["float32"]
    done = forked("evaluate", f"run={run}")
    assert done.returncode == 0, done.stderr
    assert dtypes(run) == ["float32", "float32 compiled"]


def dtypes(run: Path) -> list[str]:
    return sorted(read_evaluation(file).card.dtype for file in run.glob("evaluations/*.json"))


def test_a_model_that_draws_compiled_stays_as_it_is(plain: Any) -> None:
    """So that whoever asks for plain blocks next gets them, with the same weights."""
    trained = dit_lab.load(plain.root)
    config = trained.parts.config
    trained.labelled(replace(config, sample=replace(config.sample, compile=True)))
    assert all(block._compiled_call_impl is None for block in trained.model.blocks)
    copy = with_weights(trained.model)
    ours, theirs = (dict(model.named_parameters()) for model in (trained.model, copy))
    assert ours.keys() == theirs.keys()
    assert all(theirs[name] is weight for name, weight in ours.items())
