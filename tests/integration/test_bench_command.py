"""The `dit-lab bench` command."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.conftest import Command

pytestmark = pytest.mark.slow

TINY = [
    "experiment=quickstart", "model.depth=1", "training.global_batch_size=16", "sampler.steps=3",
    "--seconds=0.2",
]  # fmt: skip


def test_measures_all_of_a_configuration_and_keeps_nothing_else(
    command: Command, tmp_path: Path
) -> None:
    done = command("bench", *TINY, "--json", "speed.json")
    assert done.returncode == 0, done.stderr
    for said in (
        "large matrix products run at", "a training step", "backward", "its batch alone",
        "a sampling step (2 x 32 images)", "3 of them", "until help", "until first training step",
        "peak memory", "written: speed.json",
    ):  # fmt: skip
        assert said in done.stdout, done.stdout
    assert [file.name for file in tmp_path.iterdir()] == ["speed.json"]
    record = json.loads((tmp_path / "speed.json").read_text())
    step = record["training"]
    assert step["images"] == 16
    assert step["seconds"]["low"] <= step["seconds"]["median"] <= step["seconds"]["high"]
    assert set(record["costs"]) == {"training", "sampling", "loading", "first step"}
    for cost in record["costs"].values():
        assert 0 < cost["least"] <= cost["median"] <= cost["most"]


def test_checks_against_a_record(forked: Command, tmp_path: Path) -> None:
    """The record names the configuration; a cost that was much less then is found."""
    only = "--only=training"
    assert forked("bench", *TINY, only, "--json", "speed.json").returncode == 0
    file = tmp_path / "speed.json"
    record = json.loads(file.read_text())
    for factor, code, word, verdict in (
        (10.0, 0, "as fast", "as fast as recorded"),
        (0.1, 1, "slower", "slower than recorded"),
    ):
        costs = {
            name: {end: value * factor for end, value in cost.items()}
            for name, cost in record["costs"].items()
        }
        file.write_text(json.dumps({**record, "costs": costs}))
        done = forked("bench", "--check", "speed.json", only, "--seconds=0.2")
        assert done.returncode == code, done.stdout + done.stderr
        assert re.search(rf"training: .+ times its reference, recorded .+: {word}", done.stdout)
        assert verdict in done.stdout


def test_two_configurations_in_turn(command: Command) -> None:
    """One with four times the images takes more than twice the time, by both parts of it."""
    done = command("bench", *TINY, "--vs", "training.global_batch_size=256")
    assert done.returncode == 0, done.stderr
    assert "training.global_batch_size=256: a training step takes" in done.stdout
    assert _ratio(done.stdout) > 2
    done = command("bench", *TINY, "--only=sampling", "--vs", "sampler.steps=24")
    assert done.returncode == 0, done.stderr
    assert 4 < _ratio(done.stdout) < 16


def _ratio(said: str) -> float:
    found = re.search(r"the second takes ([\d.]+) \[", said)
    assert found, said
    return float(found.group(1))
