"""The same training on any number of processes, sharded or not, and exchanged checkpoints."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dit_lab.training.checkpoint import Checkpoint
from tests.integration.conftest import fork_code
from tests.integration.small_training import STEPS, in_processes

pytestmark = pytest.mark.slow

in_processes = partial(in_processes, fork_code)

GROUPS = ("model", "ema-0.9", "ema-0.5", "optimizer/state")
WAYS: dict[str, tuple[int, dict[str, Any]]] = {
    "accumulation 2": (1, {"accumulation": 2}),
    "2 whole": (2, {}),
    "2 whole, accumulation 2": (2, {"accumulation": 2}),
    "1 sharded": (1, {"sharded": True}),
    "2 sharded": (2, {"sharded": True}),
    "2 sharded, accumulation 2": (2, {"sharded": True, "accumulation": 2}),
    "2 sharded, on the host": (2, {"sharded": True, "cpu_offload": True}),
    "4 sharded, copies of 2": (4, {"sharded": True, "processes_per_copy": 2}),
}


def checkpoint(folder: Path, step: int = STEPS) -> Checkpoint:
    return Checkpoint(folder / f"step-{step:08d}")


def tensors(folder: Path, step: int = STEPS) -> dict[str, dict[str, Tensor]]:
    return {group: checkpoint(folder, step).tensors(group) for group in GROUPS}


def rows(folder: Path) -> list[tuple[int, dict[str, float]]]:
    return [(step, row) for step, row in json.loads((folder / "rows.json").read_text())]


def distance(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """||w - w'|| / ||w|| over all of them."""
    assert found.keys() == expected.keys()
    squares = [
        ((found[name] - expected[name]).double().square().sum(), w.double().square().sum())
        for name, w in expected.items()
    ]
    apart, size = (torch.stack(part).sum().sqrt() for part in zip(*squares, strict=True))
    return (apart / size).item()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of the training in one process, unsharded, in float32 or float64."""
    folders: dict[str, Path] = {}

    def train(dtype: str) -> Path:
        if dtype not in folders:
            folders[dtype] = tmp_path_factory.mktemp("alone")
            in_processes(1, "train", folder=str(folders[dtype]), dtype=dtype)
        return folders[dtype]

    return train


@pytest.mark.parametrize("way", WAYS)
def test_the_same_losses_and_weights(
    tmp_path: Path, alone: Callable[[str], Path], way: str
) -> None:
    """Float32 sums in another order.

    A logged loss is the mean over the whole batch, as in one process; learning rates are equal.
    """
    processes, options = WAYS[way]
    in_processes(processes, "train", folder=str(tmp_path), **options)
    expected = rows(alone("float32"))
    assert len(expected) == STEPS
    for (step, row), (expected_step, wanted) in zip(rows(tmp_path), expected, strict=True):
        assert step == expected_step and row.keys() == wanted.keys()
        assert row["train/lr"] == wanted["train/lr"]
        assert row["train/loss"] == pytest.approx(wanted["train/loss"], rel=1e-6)
        assert row["train/grad_norm"] == pytest.approx(wanted["train/grad_norm"], rel=1e-5)
    found, wanted_tensors = tensors(tmp_path), tensors(alone("float32"))
    for group in GROUPS[:3]:
        assert distance(found[group], wanted_tensors[group]) <= 1e-6, group


@pytest.mark.parametrize("way", ["accumulation 2", "2 whole", "2 sharded, accumulation 2"])
def test_equal_to_rounding_in_float64(
    tmp_path: Path, alone: Callable[[str], Path], way: str
) -> None:
    """Every element, so that nothing but the order of sums can differ."""
    processes, options = WAYS[way]
    in_processes(processes, "train", folder=str(tmp_path), dtype="float64", **options)
    found, expected = tensors(tmp_path), tensors(alone("float64"))
    for group in GROUPS[:3]:
        for name, weight in expected[group].items():
            close = (found[group][name] - weight).abs().max().item()
            assert close <= (1e-10 if group == "model" else 1e-6), (group, name)  # averages: fp32


FEW_STEP = {
    "mean_flow.MeanFlow": {"equal_share": 0.5},
    "improved_mean_flow.ImprovedMeanFlow": {},
    "shortcut.Shortcut": {"bootstrap_every": 8},  # some micro-batches have none
    "consistency.Consistency": {},
}


@pytest.mark.parametrize("way", ["accumulation 2", "2 whole", "2 sharded, accumulation 2"])
@pytest.mark.parametrize("objective", FEW_STEP)
def test_few_step_objectives_train_alike(tmp_path: Path, objective: str, way: str) -> None:
    """Gradients of losses with derivatives and several evaluations are averaged over processes."""
    processes, options = WAYS[way]
    chosen: dict[str, Any] = dict(FEW_STEP[objective])
    same: dict[str, Any] = {"objective": objective, "objective_options": chosen, "steps": 10}
    if "shortcut" not in objective:
        same["dtype"] = "float64"  # averages are float32
    in_processes(1, "train", folder=str(tmp_path / "alone"), **same)
    in_processes(processes, "train", folder=str(tmp_path / "way"), **same, **options)
    found, expected = (
        checkpoint(tmp_path / place, 10).tensors("model") for place in ("way", "alone")
    )
    assert distance(found, expected) <= (1e-10 if "dtype" in same else 1e-5)
    assert {name for name in found if name.startswith("heads.")} == {
        name for name in expected if name.startswith("heads.")
    }


METHODS: dict[str, dict[str, dict[str, Any]]] = {
    "repa": {"alignment.Repa": {"hidden_width": 24}},
    "sra": {"alignment.Sra": {}},
    "dispersive": {"pairs.Dispersive": {"group_images": 4}},
    "contrastive": {"pairs.Contrastive": {"group_images": 4}},
    "tread": {"routing.Tread": {}},
    "sprint": {"routing.Sprint": {"until": 0.5}},
    "internal_guidance": {"internal.InternalGuidance": {}},
    "repa, tread": {"alignment.Repa": {"hidden_width": 24}, "routing.Tread": {}},
}


@pytest.mark.parametrize("way", ["accumulation 2", "2 whole", "2 sharded, accumulation 2"])
@pytest.mark.parametrize("methods", METHODS)
def test_methods_train_alike(tmp_path: Path, methods: str, way: str) -> None:
    """Their draws, groups, heads and averages do not depend on the processes."""
    processes, options = WAYS[way]
    same: dict[str, Any] = {"methods": METHODS[methods], "steps": 10}
    if methods != "sra":  # averages are float32
        same["dtype"] = "float64"
    in_processes(1, "train", folder=str(tmp_path / "alone"), **same)
    in_processes(processes, "train", folder=str(tmp_path / "way"), **same, **options)
    found, expected = (
        checkpoint(tmp_path / place, 10).tensors("model") for place in ("way", "alone")
    )
    assert distance(found, expected) <= (1e-10 if "dtype" in same else 1e-5)


def test_methods_resume_in_every_bit(tmp_path: Path) -> None:
    """Draws, heads, averages and the teacher's weights after a stop are those of one run."""
    chosen = {name: options for one in METHODS.values() for name, options in one.items()}
    del chosen["routing.Tread"]
    chosen["routing.Sprint"] = {"until": 1.0}
    in_processes(1, "train", folder=str(tmp_path / "whole"), methods=chosen, steps=10)
    for steps in (5, 10):
        in_processes(1, "train", folder=str(tmp_path / "parts"), methods=chosen, steps=steps)
    found, expected = tensors(tmp_path / "parts", 10), tensors(tmp_path / "whole", 10)
    for group in GROUPS:
        assert found[group].keys() == expected[group].keys()
        for name, weight in expected[group].items():
            assert torch.equal(found[group][name], weight), (group, name)


def test_shards_of_one_process_are_its_whole_in_bf16(tmp_path: Path) -> None:
    """Gathered blocks in bfloat16 compute what autocast does with whole weights, in every bit."""
    for way in ({}, {"sharded": True}):
        in_processes(1, "train", folder=str(tmp_path / str(len(way))), bf16=True, steps=5, **way)
    found, expected = tensors(tmp_path / "1", 5), tensors(tmp_path / "0", 5)
    for group in GROUPS:
        for name, weight in expected[group].items():
            assert torch.equal(found[group][name], weight), (group, name)


# ---- checkpoints --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def from_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    in_processes(2, "train", folder=str(folder), steps=5, sharded=True)
    return folder


@pytest.mark.parametrize(
    ("processes", "options"),
    [
        (1, {}),
        (2, {}),
        (1, {"sharded": True}),
        (4, {"sharded": True}),
        (4, {"sharded": True, "processes_per_copy": 2}),
    ],
    ids=["1 whole", "2 whole", "1 sharded", "4 sharded", "copies of 2"],
)
def test_saved_by_two_and_loaded_by_others_and_back(
    tmp_path: Path, from_two: Path, processes: int, options: dict[str, Any]
) -> None:
    """Weights, averages and moments, in every bit."""
    there, back = str(tmp_path / "there"), tmp_path / "back"
    in_processes(processes, "copy_checkpoint", source=str(from_two), target=there, **options)
    in_processes(2, "copy_checkpoint", source=there, target=str(back), sharded=True)
    expected = tensors(from_two, 5)
    for folder in (Path(there), back):
        found = tensors(folder, 5)
        for group in GROUPS:
            assert found[group].keys() == expected[group].keys()
            for name, tensor in expected[group].items():
                assert torch.equal(found[group][name], tensor), (group, name)
        assert checkpoint(folder, 5).state() == checkpoint(from_two, 5).state()


def test_training_moves_between_numbers_of_processes(
    tmp_path: Path, alone: Callable[[str], Path]
) -> None:
    for steps, processes, sharded in ((5, 2, True), (10, 1, False), (15, 4, True), (20, 2, False)):
        in_processes(processes, "train", folder=str(tmp_path), steps=steps, sharded=sharded)
    found, expected = tensors(tmp_path), tensors(alone("float32"))
    for group in GROUPS[:3]:
        assert distance(found[group], expected[group]) <= 1e-6, group


def test_shards_are_a_checkpoint_of_torch(tmp_path: Path, from_two: Path) -> None:
    """Read by its reader, without ours; and every process has written only its rows."""
    from torch.distributed.checkpoint import HuggingFaceStorageReader, load

    folder = checkpoint(from_two, 5).path
    expected = checkpoint(from_two, 5).tensors("model")
    read = {name: torch.full_like(tensor, torch.nan) for name, tensor in expected.items()}
    load(read, storage_reader=HuggingFaceStorageReader(str(folder / "model")), no_dist=True)
    for name, tensor in expected.items():
        assert torch.equal(read[name], tensor), name
    sizes = [file.stat().st_size for file in sorted((folder / "model").iterdir())]
    assert len(sizes) == 2 and max(sizes) < 1.3 * min(sizes)


def test_averages_of_shards_are_those_of_one_process(tmp_path: Path) -> None:
    """Snapshots in float16 of weights that agree to 1e-6: a few round to the other side."""
    ways = {"one": (1, {}), "two": (2, {"sharded": True})}
    for name, (processes, options) in ways.items():
        folder = str(tmp_path / name)
        in_processes(processes, "train", folder=folder, powers=[0.05, 0.1], **options)
    for step in range(5, STEPS + 1, 5):
        one, two = (checkpoint(tmp_path / name / "averages", step) for name in ways)
        two.verify()
        assert two.state() == one.state()
        for group in ("power-0.05", "power-0.1"):
            assert len(list((two.path / group).iterdir())) == 2  # each process writes its rows
            found, expected = two.tensors(group), one.tensors(group)
            assert all(tensor.dtype == torch.float16 for tensor in found.values())
            assert distance(found, expected) <= 1e-4  # a rounding is 2e-4 of a weight


# ---- steps that are not finite ------------------------------------------------------------------


@pytest.mark.parametrize("sharded", [False, True], ids=["whole", "sharded"])
def test_nan_in_one_process_is_skipped_by_both(tmp_path: Path, sharded: bool) -> None:
    """Nobody waits for anybody, and the weights are those before the first bad step."""
    before, after = tmp_path / "before", tmp_path / "after"
    in_processes(2, "train", folder=str(before), steps=20, sharded=sharded)
    in_processes(
        2, "train", folder=str(after), steps=22, sharded=sharded, nan_at=[20, 21], nan_on=1
    )
    found, expected = tensors(after, 22), tensors(before, 20)
    for group in GROUPS:
        for name, tensor in expected[group].items():
            assert torch.equal(found[group][name], tensor), (group, name)
    assert rows(after)[-1][1]["train/skipped_steps"] == 2


def test_a_streak_in_one_process_stops_both_with_the_images(tmp_path: Path) -> None:
    in_processes(2, "train", folder=str(tmp_path), nan_at=[12, 13, 14, 15, 16], nan_on=1)
    first, second = (json.loads((tmp_path / f"streak-{n}.json").read_text()) for n in (0, 1))
    assert first == second
    assert (first["first_step"], first["step"]) == (13, 15)
    assert [image["process"] for image in first["images"]] == [1] * 8
    assert [image["sample_counter"] for image in first["images"]] == list(range(232, 240))
    assert sorted(path.name for path in tmp_path.glob("step-*")) == [
        "step-00000005", "step-00000010",
    ]  # fmt: skip
    for group in tensors(tmp_path, 10).values():
        assert all(tensor.isfinite().all() for tensor in group.values())
