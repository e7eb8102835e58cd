"""Every optimizer, stopped and resumed from a checkpoint, continues identically."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, NAdam, Optimizer, RMSprop

from dit_lab.training.checkpoint import Checkpoint
from dit_lab.training.checkpoint_store import CheckpointStore
from dit_lab.training.optimizers.combined import Combined
from dit_lab.training.optimizers.options import MEMBERS
from dit_lab.training.optimizers.state import load_optimizer, optimizer_numbers, optimizer_tensors
from dit_lab.training.optimizers.step import gradient_norm, guarded_step, set_learning_rate
from dit_lab.training.schedules import Constant
from tests.training.optimizers.kinds import make

Weights = dict[str, nn.Parameter]
Make = Callable[[Weights], Optimizer]


class Toy(Optimizer):
    """Keeps a value of each type, in a group and in the state of a weight, and steps by them."""

    def __init__(self, params: Any, lr: float = 0.1, scale: float = 1.0) -> None:
        super().__init__(params, {"lr": lr, "scale": scale, "seen": 0, "pair": (0.0, 1)})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            group["seen"] += 1
            group["pair"] = (group["pair"][0] + 0.1, group["pair"][1] + 1)
            group["even"] = group["seen"] % 2 == 0
            group["count"] = group.get("count", torch.zeros((), dtype=torch.int64)) + 1
            for weight in group["params"]:
                state = self.state[weight]
                if not state:
                    state |= {
                        "whole": 0, "third": 0.0, "odd": False, "name": "none", "nothing": None,
                        "double": torch.zeros(weight.shape, dtype=torch.float64),
                        "counts": torch.zeros(weight.shape, dtype=torch.int64),
                    }  # fmt: skip
                assert weight.grad is not None
                state["whole"] += 1
                state["third"] += 1 / 3
                state["odd"] = not state["odd"]
                state["name"] = f"step {state['whole']}"
                state["double"] += weight.grad.double() / 3
                state["counts"] += weight.grad > 0
                sizes = state["third"] + state["odd"] + group["even"] + group["pair"][0]
                change = state["double"] * sizes + state["counts"] / (1 + group["count"])
                weight.sub_((group["lr"] * group["scale"] * change / state["whole"]).float())


def member(name: str) -> Make:
    options = {"matrices": "a"} if name == "muon" else {}
    return lambda weights: make(name, weights, **options)


KINDS: dict[str, Make] = {
    **{name: member(name) for name in MEMBERS},
    "toy": lambda weights: Toy(weights.values()),
    "adamw, not fused": lambda weights: AdamW(weights.values(), lr=0.01, weight_decay=0.1),
    "nadam": lambda weights: NAdam(weights.values(), lr=0.01),
    "rmsprop": lambda weights: RMSprop(weights.values(), lr=0.01, momentum=0.9),
    "sgd without momentum": lambda weights: SGD(weights.values(), lr=0.01),
    "muon, prodigy and toy": lambda weights: Combined(
        [
            make("muon", {"a": weights["a"]}, matrices="a"),
            make("prodigy", {"b": weights["b"]}),
            Toy([weights["c"]]),
        ]
    ),
}


def weights_and_optimizer(make: Make) -> tuple[Weights, Optimizer]:
    draw = torch.Generator().manual_seed(0)
    shapes = {"a": (4, 3), "b": (5,), "c": (2, 3, 2)}
    weights = {name: nn.Parameter(torch.randn(s, generator=draw)) for name, s in shapes.items()}
    return weights, make(weights)


def names_of(weights: Weights) -> dict[Tensor, str]:
    return {weight: name for name, weight in weights.items()}


def train(weights: Weights, optimizer: Optimizer, first: int, last: int) -> None:
    """With a warm-up that ends on the way, and gradients that follow the weights."""
    schedule = Constant(warmup_steps=6)
    for step in range(first, last):
        set_learning_rate(optimizer, schedule.factor(step, 100))
        draw = torch.Generator().manual_seed(step)
        for weight in weights.values():
            weight.grad = weight.detach() + torch.randn(weight.shape, generator=draw)
        norm = gradient_norm(optimizer)
        guarded_step(optimizer, torch.tensor(float(step == 2)), norm=norm, clip_norm=1.0)


def save(folder: Path, weights: Weights, optimizer: Optimizer, step: int) -> Checkpoint:
    """As a training saves it, on the disk and back."""
    names = names_of(weights)
    store = CheckpointStore(folder, run="here", warn=pytest.fail)
    return store.save(
        step,
        tensors={"model": weights, "optimizer/state": optimizer_tensors(optimizer, names)},
        state={"optimizer": optimizer_numbers(optimizer, names)},
    )


def load(saved: Checkpoint, weights: Weights, optimizer: Optimizer) -> bool:
    for name, tensor in saved.tensors("model").items():
        weights[name].data.copy_(tensor)
    tensors = saved.tensors("optimizer/state")
    return load_optimizer(optimizer, names_of(weights), tensors, saved.state().get("optimizer"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cut", [1, 3, 8])
def test_straight_and_stopped_are_one_bit_by_bit(kind: str, cut: int, tmp_path: Path) -> None:
    straight, optimizer = weights_and_optimizer(KINDS[kind])
    train(straight, optimizer, 0, cut)
    saved = save(tmp_path, straight, optimizer, cut)
    train(straight, optimizer, cut, 12)

    resumed, fresh = weights_and_optimizer(KINDS[kind])
    assert load(saved, resumed, fresh)
    train(resumed, fresh, cut, 12)
    for name, weight in straight.items():
        assert torch.equal(resumed[name], weight), name
    ours, theirs = names_of(straight), names_of(resumed)
    assert optimizer_numbers(fresh, theirs) == optimizer_numbers(optimizer, ours)
    expected = optimizer_tensors(optimizer, ours)
    found = optimizer_tensors(fresh, theirs)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype, name
    for name, weight in straight.items():
        for key, value in optimizer.state.get(weight, {}).items():
            assert type(fresh.state[resumed[name]][key]) is type(value), (name, key)


def test_what_prodigy_has_found_is_saved(tmp_path: Path) -> None:
    """Without it, a resumed run would begin with its smallest step again."""
    weights, optimizer = weights_and_optimizer(KINDS["prodigy"])
    train(weights, optimizer, 0, 10)
    (held,) = save(tmp_path, weights, optimizer, 10).state()["optimizer"]["groups"]
    assert held["d"] > 1e-5 and held["k"] == 9 and held["d_numerator"] > 0
    assert not held.keys() & {"lr", "initial_lr", "betas", "weight_decay", "d0"}


def test_the_configuration_says_options_and_the_checkpoint_says_what_moved(tmp_path: Path) -> None:
    weights, optimizer = weights_and_optimizer(KINDS["schedule_free_adamw"])
    train(weights, optimizer, 0, 4)
    saved = save(tmp_path, weights, optimizer, 4)
    other = make("schedule_free_adamw", weights, lr=0.5, betas=[0.8, 0.99], weight_decay=0.25)
    load(saved, weights, other)
    (group,), (before,) = other.param_groups, optimizer.param_groups
    assert (group["lr"], group["betas"], group["weight_decay"]) == (0.5, (0.8, 0.99), 0.25)
    for key in ("k", "weight_sum", "lr_max", "train_mode"):
        assert group[key] == before[key], key


def test_a_checkpoint_without_numbers_still_loads(tmp_path: Path) -> None:
    """As older ones are: numbers of the state were tensors."""
    weights, optimizer = weights_and_optimizer(KINDS["prodigy"])
    train(weights, optimizer, 0, 3)
    names = names_of(weights)
    numbers = optimizer_numbers(optimizer, names)["state"]
    tensors = {key: torch.as_tensor(value) for key, value in numbers.items()}
    again, fresh = weights_and_optimizer(KINDS["prodigy"])
    old = {**optimizer_tensors(optimizer, names), **tensors}
    assert load_optimizer(fresh, names_of(again), old)
    train(again, fresh, 3, 5)
    assert all(weight.isfinite().all() for weight in again.values())


def test_numbers_of_other_groups_are_left_out(tmp_path: Path) -> None:
    """After resume=force with other groups; what is filed by a weight comes back."""
    weights, optimizer = weights_and_optimizer(KINDS["prodigy"])
    train(weights, optimizer, 0, 3)
    saved = save(tmp_path, weights, optimizer, 3)
    other = Combined([make("prodigy", {"a": weights["a"]}), make("prodigy", {"b": weights["b"]})])
    assert not load(saved, weights, other)
    assert other.param_groups[0]["k"] == 0
    assert torch.equal(other.state[weights["a"]]["s"], optimizer.state[weights["a"]]["s"])


def test_state_is_filed_by_name_not_by_place() -> None:
    """Groups in another order, a weight that never got a gradient: each still gets its own."""
    weights, _ = weights_and_optimizer(lambda weights: Toy(weights.values()))
    a, b, idle = (weights[name] for name in "abc")
    optimizer = AdamW([{"params": [a, b]}, {"params": [idle]}])
    for weight in (a, b):
        weight.grad = torch.ones_like(weight) * len(weight)
    optimizer.step()
    names = names_of(weights)
    saved = {key: tensor.clone() for key, tensor in optimizer_tensors(optimizer, names).items()}
    assert saved.keys() == {f"{n}/{s}" for n in "ab" for s in ("step", "exp_avg", "exp_avg_sq")}

    backwards = AdamW([idle, b, a], lr=0.5)
    load_optimizer(backwards, names, saved)
    for name in "ab":
        assert torch.equal(backwards.state[weights[name]]["exp_avg"], saved[f"{name}/exp_avg"])
    assert not backwards.state[idle]
    assert backwards.param_groups[0]["lr"] == 0.5  # the rate is the configuration's to say
