"""Derivatives along trajectories: right for every layer and precision, or refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dit_lab.core.errors import RequestError
from dit_lab.models.dit import DiT
from dit_lab.objectives.derivative import along
from dit_lab.training.parallel import compile_blocks, for_sampling

MakeModel = Callable[..., DiT]
LAYERS: dict[str, dict[str, Any]] = {
    "original": {},
    "rms": {"norm": "rms"},
    "swiglu": {"mlp": "swiglu"},
    "rope": {"rope": True, "num_heads": 2},
    "qk_norm": {"qk_norm": True},
    "lightning": {"norm": "rms", "mlp": "swiglu", "rope": True, "qk_norm": True},
}


def points(count: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    x, velocity = torch.randn(2, count, 1, 8, 8, generator=draw)
    return x, torch.rand(count, generator=draw), velocity


def at_labels(model: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    labels = torch.arange(6)
    return lambda x, t: model(x, 10 * t, labels)


def apart(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("layers", LAYERS)
def test_it_is_the_limit_of_difference_quotients(layers: str, make_model: MakeModel) -> None:
    model = make_model(perturbed=True, depth=2, **LAYERS[layers])
    exact, quotient = (along(at_labels(model), *points(), by=by) for by in ("jvp", "difference"))
    assert apart(quotient, exact) < 2e-3
    assert exact.norm() > 0.1
    assert not exact.requires_grad


def test_packed_layers_pass_it_on(make_model: MakeModel) -> None:
    """Sampling packs wide layers, whose kernel has no derivative; validation evaluates these."""
    model = make_model(perturbed=True, hidden_size=256, num_heads=4)
    plain, packed = (along(at_labels(m), *points(), by="jvp") for m in (model, for_sampling(model)))
    torch.testing.assert_close(packed, plain)


def test_activation_checkpointing_changes_nothing(make_model: MakeModel) -> None:
    plain, redone = (
        along(at_labels(make_model(perturbed=True, activation_checkpointing=how)), *points(), by=by)
        for how, by in (("none", "jvp"), (1, "jvp"))
    )
    assert torch.equal(plain, redone)


def test_autocast_changes_it_by_its_precision(make_model: MakeModel) -> None:
    model = make_model(perturbed=True, depth=2)
    exact = along(at_labels(model), *points(), by="jvp")
    with torch.autocast("cpu", torch.bfloat16):
        rough = along(at_labels(model), *points(), by="jvp")
    assert rough.dtype == torch.float32
    assert 1e-5 < apart(rough, exact) < 2e-2


@pytest.mark.slow
def test_compiled_blocks_have_the_same_derivative(make_model: MakeModel) -> None:
    model = make_model(perturbed=True)
    exact = along(at_labels(model), *points(), by="jvp")
    compile_blocks(model)
    at_labels(model)(*points()[:2])
    assert apart(along(at_labels(model), *points(), by="jvp"), exact) < 1e-5


class Rounds(torch.autograd.Function):
    """A function of a user's own without a forward mode."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda x, t: Rounds.apply(x), "forward-mode derivative"),
        (lambda x, t: torch.ones_like(x), "does not depend on its time"),
        (lambda x, t: x.detach() * 2, "does not depend on its time"),
    ],
    ids=["no forward mode", "a constant", "detached"],
)
def test_it_is_refused_where_it_would_be_wrong(function: Any, why: str) -> None:
    with pytest.raises(RequestError, match=why) as refused:
        along(function, *points(), by="jvp")
    assert "use objective.derivative=difference" in str(refused.value)
