"""The rate of each group, the guarded step, and an optimizer state that goes on exactly."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from dit_lab.training.checkpoint_store import CheckpointStore
from dit_lab.training.optimizers.state import load_optimizer, optimizer_tensors
from dit_lab.training.optimizers.step import gradient_norm, guarded_step, set_learning_rate
from dit_lab.training.optimizers.uncompiled import WRAPPED, without_compiler

Make = Callable[[list[nn.Parameter]], Optimizer]

OPTIMIZERS: dict[str, Make] = {
    "fused adamw": lambda weights: AdamW(weights, lr=0.01, weight_decay=0.1, fused=True),
    "adamw": lambda weights: AdamW(weights, lr=0.01, weight_decay=0.1),
    "sgd": lambda weights: SGD(weights, lr=0.01, momentum=0.9, weight_decay=0.1),
}
GOOD, BAD = torch.zeros(()), torch.ones(())


def step(optimizer: Optimizer, nonfinite: Tensor, clip_norm: float | None = 1.0) -> None:
    norm = gradient_norm(optimizer)
    guarded_step(optimizer, nonfinite, norm=norm, clip_norm=clip_norm)


# ---- the rate ------------------------------------------------------------------------------------


def test_groups_keep_their_own_base_rates() -> None:
    first, second = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    optimizer = AdamW([{"params": [first], "lr": 0.5}, {"params": [second], "lr": 0.125}])
    for factor in (0.5, 0.25, 1.0, 0.0, 1.0):  # a factor acts on the base, not on the last rate
        assert set_learning_rate(optimizer, factor) == 0.5 * factor
        assert [group["lr"] for group in optimizer.param_groups] == [0.5 * factor, 0.125 * factor]


# ---- the guarded step ---------------------------------------------------------------------------


def weights_and_optimizer(make: Make) -> tuple[dict[str, nn.Parameter], Optimizer]:
    draw = torch.Generator().manual_seed(0)
    shapes = {"a": (4, 3), "b": (5,)}
    weights = {name: nn.Parameter(torch.randn(s, generator=draw)) for name, s in shapes.items()}
    return weights, make(list(weights.values()))


def set_gradients(weights: dict[str, nn.Parameter], seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    for weight in weights.values():
        weight.grad = torch.randn(weight.shape, generator=draw)


def everything(weights: dict[str, nn.Parameter], optimizer: Optimizer) -> dict[str, Tensor]:
    """Copies of the weights and of the optimizer's state."""
    state = optimizer_tensors(optimizer, {weight: name for name, weight in weights.items()})
    return {name: tensor.detach().clone() for name, tensor in {**weights, **state}.items()}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_bad_step_moves_nothing_and_the_next_goes_on(make: Make) -> None:
    weights, optimizer = weights_and_optimizer(make)
    untouched, calm = weights_and_optimizer(make)  # never sees the bad gradients
    for seed in (1, 2):
        for w, o in ((weights, optimizer), (untouched, calm)):
            set_gradients(w, seed)
            step(o, GOOD)
    before = everything(weights, optimizer)

    for gradient in (torch.nan, torch.inf):
        for weight in weights.values():
            weight.grad = torch.full_like(weight, gradient)
        step(optimizer, BAD)
        assert_same(everything(weights, optimizer), before)

    for w, o in ((weights, optimizer), (untouched, calm)):
        set_gradients(w, 3)
        step(o, GOOD)
    assert not torch.equal(weights["a"], before["a"])
    assert_same(everything(weights, optimizer), everything(untouched, calm))


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_bad_first_step_moves_nothing(make: Make) -> None:
    """The state of the optimizer does not exist yet; it must not be born with NaNs."""
    weights, optimizer = weights_and_optimizer(make)
    untouched, calm = weights_and_optimizer(make)
    for weight in weights.values():
        weight.grad = torch.full_like(weight, torch.nan)
    step(optimizer, BAD)
    for w, o in ((weights, optimizer), (untouched, calm)):
        set_gradients(w, 1)
        step(o, GOOD)
    assert_same(everything(weights, optimizer), everything(untouched, calm))


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("clip_norm", [None, 0.25, 1e3])
def test_clipping_is_that_of_torch(make: Make, clip_norm: float | None) -> None:
    """Within rounding above the limit, where a quotient takes a product's place; exact below it."""
    weights, optimizer = weights_and_optimizer(make)
    expected, plain = weights_and_optimizer(make)
    for seed in range(4):
        set_gradients(weights, seed)
        set_gradients(expected, seed)
        norm = torch.nn.utils.clip_grad_norm_(expected.values(), clip_norm or torch.inf)
        assert norm > 0.5
        assert torch.equal(gradient_norm(optimizer), norm)
        step(optimizer, GOOD, clip_norm)
        plain.step()
    found, state = everything(weights, optimizer), everything(expected, plain)
    if clip_norm != 0.25:
        assert_same(found, state)
    for name, tensor in state.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-6, atol=1e-7, msg=name)


def test_gradients_that_nobody_has_do_not_count() -> None:
    weights, optimizer = weights_and_optimizer(OPTIMIZERS["adamw"])
    weights["a"].grad = torch.full((4, 3), 2.0)
    assert gradient_norm(optimizer).item() == pytest.approx(2 * 12**0.5)


# ---- without what is there for the compiler -----------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options"),
    [(AdamW, {"fused": True}), (AdamW, {"amsgrad": True}), (SGD, {"momentum": 0.9})],
)
def test_without_the_compiler_every_step_is_the_same(
    kind: type[Optimizer], options: dict[str, Any]
) -> None:
    def make(made: type[Optimizer]) -> Make:
        return lambda weights: made(weights[:1], lr=0.01, weight_decay=0.1, **options)

    plain, expected = weights_and_optimizer(make(kind))
    weights, optimizer = weights_and_optimizer(make(without_compiler(kind)))
    for w, o in ((plain, expected), (weights, optimizer)):
        o.add_param_group({"params": [w["b"]], "lr": 0.1})
        for seed in range(3):
            o.zero_grad()
            set_gradients(w, seed)
            o.step()
        o.load_state_dict(o.state_dict())
        set_gradients(w, 3)
        step(o, GOOD)
        assert all(weight.requires_grad for weight in w.values())
    assert isinstance(optimizer, kind)
    assert type(optimizer).__name__ == kind.__name__
    assert_same(everything(weights, optimizer), everything(plain, expected))


def test_methods_that_torch_does_not_wrap_are_used_as_they_are() -> None:
    """As of a later torch, which needs no wrapper to keep its compiler out."""
    methods = (*WRAPPED, "step")
    bare = {name: inspect.unwrap(getattr(SGD, name)) for name in methods}
    bare["step"] = torch.no_grad()(bare["step"])
    kind = type("SGD", (SGD,), {**bare, "__module__": "torch.optim.sgd"})
    weights, optimizer = weights_and_optimizer(lambda w: without_compiler(kind)(w, lr=0.01))
    plain, expected = weights_and_optimizer(lambda w: SGD(w, lr=0.01))
    for w, o in ((plain, expected), (weights, optimizer)):
        set_gradients(w, 0)
        step(o, GOOD)
    assert_same(everything(weights, optimizer), everything(plain, expected))


def test_an_optimizer_of_the_users_own_stays_as_it_is() -> None:
    class Own(SGD):
        pass

    assert without_compiler(Own) is Own


# ---- saving -------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_restored_optimizer_goes_on_bit_by_bit(make: Make, tmp_path: Path) -> None:
    straight, optimizer = weights_and_optimizer(make)
    for seed in range(3):
        set_gradients(straight, seed)
        optimizer.step()
    names = {weight: name for name, weight in straight.items()}
    store = CheckpointStore(tmp_path, run="here", warn=pytest.fail)
    tensors = {"weights": straight, "optimizer/state": optimizer_tensors(optimizer, names)}
    saved = store.save(3, tensors=tensors, state={})

    resumed, fresh = weights_and_optimizer(make)
    for name, tensor in saved.tensors("weights").items():
        resumed[name].data.copy_(tensor)
    names = {weight: name for name, weight in resumed.items()}
    load_optimizer(fresh, names, saved.tensors("optimizer/state"))
    assert_same(everything(resumed, fresh), everything(straight, optimizer))
    for seed in (10, 11):
        for w, o in ((straight, optimizer), (resumed, fresh)):
            set_gradients(w, seed)
            o.step()
    assert_same(everything(resumed, fresh), everything(straight, optimizer))


def test_state_is_filed_by_name_not_by_place() -> None:
    """Groups in another order, a weight that never got a gradient: each still gets its own."""
    weights, optimizer = weights_and_optimizer(OPTIMIZERS["adamw"])
    idle = nn.Parameter(torch.zeros(2))
    optimizer.add_param_group({"params": [idle]})
    set_gradients(weights, 0)
    optimizer.step()
    names = {weights["a"]: "a", weights["b"]: "b", idle: "idle"}
    saved = {key: tensor.clone() for key, tensor in optimizer_tensors(optimizer, names).items()}
    assert saved.keys() == {f"{n}/{s}" for n in "ab" for s in ("step", "exp_avg", "exp_avg_sq")}

    backwards = AdamW([idle, weights["b"], weights["a"]], lr=0.5)
    load_optimizer(backwards, names, saved)
    for name in "ab":
        assert torch.equal(backwards.state[weights[name]]["exp_avg"], saved[f"{name}/exp_avg"])
    assert not backwards.state[idle]
    assert backwards.param_groups[0]["lr"] == 0.5  # the rate is the configuration's to say
