"""Shared fixtures: the real command in its own process, in an empty folder."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from hypothesis import settings

from dit_lab.core import trust
from tests.small_parts import (  # noqa: F401 - fixtures
    digits,
    held_out_digits,
    make_batches,
    make_model,
)

settings.register_profile("lab", deadline=None, database=None)
settings.load_profile("lab")

Command = Callable[..., "subprocess.CompletedProcess[str]"]
Start = Callable[..., "subprocess.Popen[str]"]

# One thread each: processes that share two cores wait for each other's threads otherwise.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", "PYTHONUNBUFFERED": "1"}

# The smallest training that still has every part: one block of pico on real digits, a second or
# two for 40 steps.
TINY = [
    "dataset=digits",
    "codec=identity",
    "model=pico",
    "model.depth=1",
    "objective=rectified_flow",
    "precision=fp32",
    "name=tiny",
    "ema.decays=[0.9]",
    "sampler=euler",
    "sampler.steps=2",
    "sample.num_images=10",
    "training.total_steps=40",
    "training.global_batch_size=16",
    "training.log_every_steps=5",
    "training.checkpoint_every_steps=10",
    "training.validate_every_steps=20",
    "training.sample_every_steps=20",
    "evaluation.loss_images=32",
    "evaluation.num_images=0",
]


@pytest.fixture(autouse=True)
def _trusting_nothing() -> Iterator[None]:
    """Every test is a separate command with its own trust settings."""
    with trust.this_command():
        yield


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny() -> list[str]:
    """Overrides of a training that takes seconds."""
    return list(TINY)


@pytest.fixture(scope="session")
def command_in() -> Command:
    """`command_in(folder, "train", "seed=1")` runs `dit-lab train seed=1` in the folder."""

    def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "dit_lab", *arguments],
            cwd=folder,
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    return run


@pytest.fixture
def command(command_in: Command, tmp_path: Path) -> Command:
    """Return a function: `command("train", "seed=1")` runs the command in an empty folder."""
    return partial(command_in, tmp_path)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Like `command`, but returns the running process, which is killed at the end of the test."""
    started: list[subprocess.Popen[str]] = []

    def run(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "dit_lab", *arguments],
            cwd=tmp_path,
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.wait()
