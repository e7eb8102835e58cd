"""The learning rate of each group, and the guarded step."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from dit_lab.training.optimizers.combined import Combined
from dit_lab.training.optimizers.options import MEMBERS
from dit_lab.training.optimizers.state import optimizer_numbers, optimizer_tensors
from dit_lab.training.optimizers.step import gradient_norm, guarded_step, set_learning_rate
from dit_lab.training.optimizers.uncompiled import WRAPPED, without_compiler
from tests.training.optimizers.kinds import make

Make = Callable[[list[nn.Parameter]], Optimizer]


def member(name: str) -> Make:
    """An optimizer of the group, for two weights."""
    options = {"matrices": "a"} if name == "muon" else {}
    return lambda weights: make(name, dict(zip("ab", weights, strict=True)), **options)


OPTIMIZERS: dict[str, Make] = {
    "fused adamw": lambda weights: AdamW(weights, lr=0.01, weight_decay=0.1, fused=True),
    "adamw": lambda weights: AdamW(weights, lr=0.01, weight_decay=0.1),
    "sgd": lambda weights: SGD(weights, lr=0.01, momentum=0.9, weight_decay=0.1),
    "two": lambda weights: Combined(
        [AdamW(weights[:1], lr=0.01, fused=True), SGD(weights[1:], lr=0.01, momentum=0.9)]
    ),
    "two fused": lambda weights: Combined(
        [AdamW(weights[:1], lr=0.01, fused=True), AdamW(weights[1:], lr=0.1, fused=True)]
    ),
    **{f"member {name}": member(name) for name in MEMBERS},
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
    names: dict[Tensor, str] = {weight: name for name, weight in weights.items()}
    numbers = optimizer_numbers(optimizer, names)
    kept = {
        f"{index} {key}": torch.tensor(value, dtype=torch.float64)
        for index, held in enumerate([*numbers["groups"], numbers["state"]])
        for key, value in held.items()
    }
    found = {**weights, **optimizer_tensors(optimizer, names), **kept}
    return {name: tensor.detach().clone() for name, tensor in found.items()}


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
