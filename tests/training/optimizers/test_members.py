"""Each optimizer gives the same bits as in a plain loop."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from dit_lab.core.errors import RequestError
from dit_lab.models.dit import DiT
from dit_lab.training.ema import ScheduleFree
from dit_lab.training.optimizers.combined import parts_of as optimizers_of
from dit_lab.training.optimizers.muon import Muon, orthogonalised
from dit_lab.training.optimizers.options import COMPONENTS, MEMBERS
from dit_lab.training.optimizers.step import gradient_norm, guarded_step, set_learning_rate
from dit_lab.training.schedules import Constant
from tests.training.optimizers.kinds import make, plain

GOOD = torch.zeros(())
AS_TORCH: dict[str, dict[str, Any]] = {"muon": {"dtype": "bfloat16", "split": False}}
"""Options under which an optimizer is the one it is compared with."""


def hidden(name: str) -> bool:
    return name.startswith("blocks.") and "adaLN" not in name


def weights_of(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def set_gradients(weights: dict[str, nn.Parameter], seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    for weight in weights.values():
        weight.grad = 0.1 * torch.randn(weight.shape, generator=draw) + 0.1 * weight.detach()


@pytest.mark.parametrize("member", MEMBERS)
def test_the_same_steps_as_in_a_plain_loop(member: str, make_model: Callable[..., DiT]) -> None:
    ours, theirs = weights_of(make_model()), weights_of(make_model())
    before = {name: weight.detach().clone() for name, weight in ours.items()}
    optimizer = make(member, ours, **AS_TORCH.get(member, {}))
    optimizers, step = plain(member, theirs, hidden)
    for seed in range(6):
        set_gradients(ours, seed)
        set_gradients(theirs, seed)
        set_learning_rate(optimizer, 1.0)
        guarded_step(optimizer, GOOD, norm=gradient_norm(optimizer), clip_norm=None)
        step()
        optimizer.zero_grad(set_to_none=True)
    for name, weight in ours.items():
        assert torch.equal(weight, theirs[name]), name
        assert not torch.equal(weight, before[name]), name
    for other in optimizers:
        for weight, state in other.state.items():
            name = next(name for name, own in theirs.items() if own is weight)
            for key, value in state.items():
                assert torch.equal(
                    torch.as_tensor(optimizer.state[ours[name]][key]), torch.as_tensor(value)
                ), (name, key)


@pytest.mark.parametrize("member", MEMBERS)
def test_the_state_is_as_large_as_memory_estimates_count(
    member: str, make_model: Callable[..., DiT]
) -> None:
    weights = weights_of(make_model(hidden_size=64, depth=6, perturbed=True))
    optimizer = make(member, weights)
    set_gradients(weights, 0)
    optimizer.step()
    held = [value for state in optimizer.state.values() for value in state.values()]
    numbers = sum(value.numel() for value in held if isinstance(value, torch.Tensor))
    copies = numbers / sum(weight.numel() for weight in weights.values())
    assert copies == pytest.approx(COMPONENTS[MEMBERS[member]].copies, abs=0.1)


# ---- schedule-free -------------------------------------------------------------------------------


def test_the_average_is_what_the_package_evaluates_and_gradients_are_taken_elsewhere(
    make_model: Callable[..., DiT],
) -> None:
    """With the warm-up of the lab's schedule, where the package would have its own."""
    from schedulefree import AdamWScheduleFree

    model = make_model()
    ours, theirs = weights_of(model), weights_of(make_model())
    optimizer = make("schedule_free_adamw", ours, weight_decay=0.1)
    average = ScheduleFree(dict(model.named_parameters()), optimizer)
    package = AdamWScheduleFree(theirs.values(), weight_decay=0.1, warmup_steps=4)
    for name, weight in model.named_parameters():  # before the first step, the weights themselves
        assert torch.equal(average.shadow[name], weight)
    schedule = Constant(warmup_steps=4)
    for seed in range(8):
        package.train()
        set_gradients(theirs, seed)
        package.step()
        package.eval()
        set_gradients(ours, seed)
        set_learning_rate(optimizer, schedule.factor(seed, 8))
        guarded_step(optimizer, GOOD, norm=gradient_norm(optimizer), clip_norm=None)
    assert average.scalars() == {"num_updates": 8.0}
    shadow = average.shadow
    assert shadow.keys() == dict(model.named_parameters()).keys()
    for name, weight in theirs.items():
        torch.testing.assert_close(shadow[name], weight.detach(), rtol=1e-5, atol=1e-7)
        assert not torch.equal(shadow[name], ours[name])


# ---- Muon ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "columns"), [(24, 24), (12, 40), (40, 12)])
def test_singular_values_come_near_one(rows: int, columns: int) -> None:
    matrix = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))
    (found,) = orthogonalised(matrix[None], iterations=5, dtype=torch.float32)
    assert found.shape == matrix.shape and found.dtype == torch.float32
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.3 and values.max() < 1.3
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    turned = left.T @ found @ right.T  # the same directions: what is left is diagonal
    torch.testing.assert_close(turned, torch.diag(turned.diagonal()), rtol=0, atol=1e-4)
    (coarse,) = orthogonalised(matrix[None], iterations=5, dtype=torch.bfloat16)
    assert coarse.dtype == torch.bfloat16
    assert 1e-4 < ((coarse - found).norm() / found.norm()).item() < 0.05


def by_muon(weights: dict[str, nn.Parameter], **options: Any) -> set[str]:
    first, *_ = optimizers_of(make("muon", weights, **options))
    assert isinstance(first, Muon)
    steps = {weight for group in first.param_groups for weight in group["params"]}
    return {name for name, weight in weights.items() if weight in steps}


def test_muon_steps_the_matrices_of_the_blocks(make_model: Callable[..., DiT]) -> None:
    weights = weights_of(make_model(depth=2))
    inside = {n for n, w in weights.items() if re.fullmatch(r"blocks\.\d+\..+", n) and w.ndim == 2}
    modulations = {name for name in inside if "adaLN_modulation" in name}
    assert len(modulations) == 2 and len(inside) == 10
    assert by_muon(weights) == inside - modulations
    assert by_muon(weights, modulation="muon") == inside
    assert by_muon(weights, matrices=r"blocks\.0\.mlp\..+") == {
        "blocks.0.mlp.fc1.weight", "blocks.0.mlp.fc2.weight",
    }  # fmt: skip
    with pytest.raises(RequestError, match=r"optimizer.matrices=layers.*: matches no matrix"):
        by_muon(weights, matrices="layers.*")


def test_fused_matrices_are_orthogonalised_by_themselves(make_model: Callable[..., DiT]) -> None:
    """And each steps by the scale of its own shape."""
    for split, pieces in ((True, {"qkv": 3, "adaLN_modulation": 6}), (False, {})):
        weights = weights_of(make_model())
        before = {name: weight.detach().clone() for name, weight in weights.items()}
        optimizer = make("muon", weights, split=split, modulation="muon", nesterov=False, lr=0.01)
        set_gradients(weights, 0)
        optimizer.step()
        for part, names in (
            ("qkv", "blocks.0.attn.qkv.weight"),
            ("adaLN_modulation", "blocks.0.adaLN_modulation.1.weight"),
            ("fc1", "blocks.0.mlp.fc1.weight"),
        ):
            gradient = weights[names].grad
            assert gradient is not None
            parts = (0.05 * gradient).chunk(pieces.get(part, 1))
            steps = orthogonalised(torch.stack(parts), iterations=5, dtype=torch.float32)
            size = 0.2 * max(parts[0].shape) ** 0.5
            expected = before[names] - 0.01 * size * steps.flatten(0, 1)
            torch.testing.assert_close(weights[names].detach(), expected, rtol=0, atol=1e-6)


def test_a_rate_of_its_own_for_adamw_and_the_other_scale(make_model: Callable[..., DiT]) -> None:
    weights = weights_of(make_model())
    optimizer = make("muon", weights, lr=0.02, adamw_lr=3e-4, scale="original", nesterov=False)
    assert set_learning_rate(optimizer, 0.5) == 0.01
    assert [group["lr"] for group in optimizer.param_groups] == [0.01, 1.5e-4]
    name = "blocks.0.mlp.fc1.weight"
    before, (rows, columns) = weights[name].detach().clone(), weights[name].shape
    set_gradients(weights, 0)
    gradient = weights[name].grad
    assert gradient is not None
    optimizer.step()
    (step,) = orthogonalised(0.05 * gradient[None], iterations=5, dtype=torch.float32)
    expected = before - 0.01 * (rows / columns) ** 0.5 * step
    torch.testing.assert_close(weights[name].detach(), expected, rtol=0, atol=1e-6)
