"""Every optimizer on one and two processes, unsharded and sharded, uninterrupted and resumed."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dit_lab.training.checkpoint import Checkpoint
from dit_lab.training.optimizers.options import (
    COMPONENTS,
    MEMBERS,
    WITHOUT_SHARDS,
    WITHOUT_SHARDS_IF_FUSED,
)
from tests.integration.conftest import fork_code
from tests.integration.small_training import in_processes
from tests.integration.test_same_training import distance

pytestmark = pytest.mark.slow

in_processes = partial(in_processes, fork_code)

STEPS = 10
OPTIMIZERS: dict[str, dict[str, Any]] = {
    **{name: {"member": name} for name in MEMBERS},
    "muon in bfloat16": {"member": "muon", "dtype": "bfloat16"},
    "muon with modulations": {"member": "muon", "modulation": "muon"},
    "adamw and lion in groups": {
        "member": "adamw",
        "groups": [
            {"match": ".*bias", "lr": 1e-3, "weight_decay": 0.1},
            {"match": r"blocks\..*", "optimizer": "lion"},
        ],
    },
}
WAYS: dict[str, tuple[int, dict[str, Any]]] = {
    "accumulation 2": (1, {"accumulation": 2}),
    "2 whole": (2, {}),
    "2 sharded": (2, {"sharded": True}),
}
CLOSE = 1e-5
"""How far weights and averages may be apart: norm of the difference over the norm."""

LESS_CLOSE = {"schedule_free_adamw": 2e-5, "muon in bfloat16": 1e-4}
"""The first at its rate of 2.5e-3, 25 times that of adamw here."""


def optimizers_for(way: str) -> dict[str, dict[str, Any]]:
    sharded = way == "2 sharded"
    return {
        name: options
        for name, options in OPTIMIZERS.items()
        if not sharded or COMPONENTS[MEMBERS[options["member"]]].takes_shards
    }


def tensors(folder: Path, step: int = STEPS) -> dict[str, dict[str, Tensor]]:
    checkpoint = Checkpoint(folder / f"step-{step:08d}")
    names = ["model", *checkpoint.state()["emas"]]
    return {name: checkpoint.tensors(name) for name in names}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a training by each optimizer, in one process and without a stop."""
    folder = tmp_path_factory.mktemp("alone")
    in_processes(1, "train_each", folder=str(folder), optimizers=OPTIMIZERS, stops=[STEPS])
    return folder


@pytest.mark.parametrize("way", WAYS)
def test_the_same_weights(way: str, alone: Path, tmp_path: Path) -> None:
    processes, options = WAYS[way]
    kinds = optimizers_for(way)
    in_processes(
        processes, "train_each", folder=str(tmp_path), optimizers=kinds, stops=[STEPS], **options
    )
    apart = {}
    for name in kinds:
        found, expected = tensors(tmp_path / name), tensors(alone / name)
        assert found.keys() == expected.keys()
        apart[name] = max(distance(found[group], expected[group]) for group in expected)
    print(way, {name: f"{value:.1e}" for name, value in apart.items()})
    for name, value in apart.items():
        assert value <= LESS_CLOSE.get(name, CLOSE), (name, value)


@pytest.mark.parametrize("way", ["1 whole", "2 sharded"])
def test_resumed_is_straight_bit_by_bit(way: str, alone: Path, tmp_path: Path) -> None:
    processes, options = WAYS.get(way, (1, {}))
    kinds = optimizers_for(way)
    given = {"optimizers": kinds, **options}
    straight, resumed = alone, tmp_path / "resumed"
    if processes > 1:
        straight = tmp_path / "straight"
        in_processes(processes, "train_each", folder=str(straight), stops=[STEPS], **given)
    in_processes(processes, "train_each", folder=str(resumed), stops=[STEPS // 2, STEPS], **given)
    for name in kinds:
        found, expected = (Checkpoint(f / name / f"step-{STEPS:08d}") for f in (resumed, straight))
        assert found.state() == expected.state()
        for group in ("model", *expected.state()["emas"], "optimizer/state"):
            tensors = expected.tensors(group)
            for key, tensor in tensors.items():
                assert torch.equal(found.tensors(group)[key], tensor), (name, group, key)


def test_what_cannot_step_shards_is_known(tmp_path: Path) -> None:
    """The tables that configurations are checked against say what torch does."""
    in_processes(2, "step_shards", folder=str(tmp_path))
    first, second = (json.loads((tmp_path / f"{index}.json").read_text()) for index in (0, 1))
    members = {name for name, target in MEMBERS.items() if not COMPONENTS[target].takes_shards}
    fused = {f"{target} fused" for target in WITHOUT_SHARDS_IF_FUSED}
    assert set(first) == set(second) == {*members, *WITHOUT_SHARDS, *fused}
