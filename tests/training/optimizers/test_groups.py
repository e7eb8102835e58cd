"""Parameter groups by patterns: their learning rates, weight decays and optimizers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from dit_lab.build.optimizer import build_optimizer
from dit_lab.config.compose import compose_train
from dit_lab.config.identity import source_now, train_hash
from dit_lab.core.errors import RequestError
from dit_lab.models.dit import DiT
from dit_lab.training.ema import ScheduleFree
from dit_lab.training.optimizers.combined import Combined, parts_of
from dit_lab.training.optimizers.groups import by_pattern
from dit_lab.training.optimizers.state import optimizer_tensors
from dit_lab.training.optimizers.step import gradient_norm, guarded_step, set_learning_rate

DIGITS = ["dataset=digits", "codec=identity", "model=pico", "objective=rectified_flow"]
Make = Callable[..., DiT]


def built(model: nn.Module, *overrides: str) -> Optimizer:
    return build_optimizer(compose_train([*DIGITS, *overrides]), model)


def names_in(optimizer: Optimizer, model: nn.Module) -> list[list[str]]:
    """Of each group."""
    names: dict[Tensor, str] = {weight: name for name, weight in model.named_parameters()}
    return [[names[weight] for weight in group["params"]] for group in optimizer.param_groups]


def learning(model: nn.Module) -> list[str]:
    return [name for name, weight in model.named_parameters() if weight.requires_grad]


def take_step(optimizer: Optimizer) -> None:
    norm = gradient_norm(optimizer)
    guarded_step(optimizer, torch.zeros(()), norm=norm, clip_norm=None)


def set_gradients(model: nn.Module) -> None:
    draw = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        weight.grad = torch.randn(weight.shape, generator=draw) if weight.requires_grad else None


def test_without_groups_it_is_the_plain_optimizer(make_model: Make) -> None:
    model = make_model()
    optimizer = built(model)
    assert isinstance(optimizer, AdamW)
    assert names_in(optimizer, model) == [learning(model)]


def test_the_first_match_of_a_whole_name_decides(make_model: Make) -> None:
    model = make_model()
    optimizer = built(
        model,
        "optimizer.weight_decay=0.5",
        "optimizer.groups=[{match: '.*bias', weight_decay: 0},"
        "{match: 'blocks\\.0\\..*', lr: 0.01}, {match: '.*', lr: 0.1, weight_decay: 0.2}]",
    )
    assert isinstance(optimizer, AdamW)
    biases = [name for name in learning(model) if name.endswith("bias")]
    in_block = [n for n in learning(model) if n.startswith("blocks.0.") and n not in biases]
    others = [n for n in learning(model) if n not in biases and n not in in_block]
    assert names_in(optimizer, model) == [biases, in_block, others]
    found = [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups]
    assert found == [(1e-4, 0.0), (0.01, 0.5), (0.1, 0.2)]
    assert set_learning_rate(optimizer, 0.5) == 5e-5
    assert [group["lr"] for group in optimizer.param_groups] == [5e-5, 0.005, 0.05]


def test_what_nothing_matches_comes_first() -> None:
    names = {1: "a.weight", 2: "a.bias", 3: "b.weight"}
    entry = {"match": ".*bias", "lr": 1.0}
    assert by_pattern(names, [entry]) == [({}, [1, 3]), (entry, [2])]  # type: ignore[type-var]
    for pattern in ("bias", "a", ".*weigh"):  # of a part of a name
        with pytest.raises(RequestError, match=r"groups\[0\].match=.*: matches no parameter"):
            by_pattern(names, [{"match": pattern, "lr": 1.0}])  # type: ignore[type-var]


def test_a_group_with_an_optimizer_of_its_own(make_model: Make) -> None:
    """One object steps, holds and saves all; each part does what it does alone."""
    model, first, second = make_model(), make_model(), make_model()
    optimizer = built(
        model,
        "optimizer.lr=0.01",
        "optimizer.groups=[{match: 'blocks.*', optimizer: lion, lr: 0.001, weight_decay: 0.1},"
        "{match: '.*bias', optimizer: adamw, lr: 0.1}]",
    )
    adamw, _ = parts_of(optimizer)
    assert isinstance(optimizer, Combined) and isinstance(adamw, AdamW)
    assert [group["lr"] for group in optimizer.param_groups] == [0.01, 0.1, 0.001]
    blocks = [name for name in learning(model) if name.startswith("blocks")]
    outer, biases, in_blocks = names_in(optimizer, model)
    assert in_blocks == blocks and all(name.endswith("bias") for name in biases)
    assert sorted([*outer, *biases, *in_blocks]) == sorted(learning(model))

    all_lion = built(first, "optimizer=lion", "optimizer.lr=0.001", "optimizer.weight_decay=0.1")
    all_adamw = built(second, "optimizer.lr=0.01")
    for trained, stepped in ((model, optimizer), (first, all_lion), (second, all_adamw)):
        set_gradients(trained)
        take_step(stepped)
    after, as_lion, as_adamw = (dict(m.named_parameters()) for m in (model, first, second))
    for name in blocks:
        assert torch.equal(after[name], as_lion[name]), name
    for name in outer:
        assert torch.equal(after[name], as_adamw[name]), name
    names: dict[Tensor, str] = {weight: name for name, weight in model.named_parameters()}
    kept = optimizer_tensors(optimizer, names)
    assert {key.partition("/")[0] for key in kept} == set(learning(model))
    optimizer.zero_grad(set_to_none=True)
    assert all(weight.grad is None for weight in model.parameters())


def test_entries_may_take_everything(make_model: Make) -> None:
    model = make_model()
    optimizer = built(model, "optimizer.groups=[{match: '.*', optimizer: sgd}]")
    (only,) = parts_of(optimizer)
    assert type(only).__name__ == "SGD"


def test_muon_takes_groups_through_both_its_parts(make_model: Make) -> None:
    model = make_model()
    optimizer = built(
        model, "optimizer=muon", "optimizer.groups=[{match: 'blocks.*', lr: 0.1, weight_decay: 1}]"
    )
    groups = names_in(optimizer, model)
    rates = [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups]
    assert rates == [(0.1, 1), (0.001, 0.0), (0.1, 1)]  # Muon's matrices, then AdamW's two
    assert all(name.startswith("blocks") and name.endswith("weight") for name in groups[0])
    assert not any(name.startswith("blocks") for name in groups[1])


def test_muon_for_some_blocks(make_model: Make) -> None:
    """It has nothing to do with the matrices of other groups."""
    model = make_model(depth=2)
    entry = "{match: 'blocks\\.1\\..*', optimizer: muon, lr: 0.1}"
    optimizer = built(model, f"optimizer.groups=[{entry}]")
    outer, by_muon, beside = names_in(optimizer, model)
    assert [type(part).__name__ for part in parts_of(optimizer)] == ["AdamW", "Muon", "AdamW"]
    assert len(by_muon) == 4 and all(name.startswith("blocks.1.") for name in [*by_muon, *beside])
    assert not any(name.startswith("blocks.1.") for name in outer)
    set_gradients(model)
    take_step(optimizer)


def test_an_average_for_weights_that_have_none(make_model: Make) -> None:
    """In a group of another optimizer, the average is the weight."""
    model = make_model()
    optimizer = built(
        model, "optimizer=schedule_free_adamw",
        "optimizer.groups=[{match: '.*bias', optimizer: sgd}, {match: 'x_.*', weight_decay: 0.1}]",
    )  # fmt: skip
    average = ScheduleFree(dict(model.named_parameters()), optimizer)
    for _ in range(3):
        set_gradients(model)
        take_step(optimizer)
    for name, weight in model.named_parameters():
        learns = weight.requires_grad and not name.endswith("bias")
        assert torch.equal(average.shadow[name], weight) != learns, name
    assert average.scalars() == {"num_updates": 3.0}


def test_groups_decide_the_run_and_none_leave_it_as_it_was() -> None:
    plain = compose_train(DIGITS)
    grouped = compose_train([*DIGITS, "optimizer.groups=[{match: '.*bias', optimizer: lion}]"])
    assert train_hash(grouped) != train_hash(plain)
    options: dict[str, Any] = {"groups": []}
    assert train_hash(replace(plain, optimizer=replace(plain.optimizer, **options))) == train_hash(
        plain
    )
    new = source_now(grouped)["code_files"].keys() - source_now(plain)["code_files"].keys()
    assert new == {"dit_lab/training/optimizers/packages.py"}


@pytest.mark.parametrize("name", ["NAdam", "RMSprop"])
def test_an_optimizer_of_torch_has_groups_too(name: str, make_model: Make, tmp_path: Any) -> None:
    (tmp_path / "optimizer").mkdir()
    (tmp_path / "optimizer/mine.yaml").write_text(f"_target_: torch.optim.{name}\n")
    model = make_model()
    overrides = [*DIGITS, "optimizer=mine", "optimizer.groups=[{match: '.*bias', lr: 0.5}]"]
    optimizer = build_optimizer(compose_train(overrides, config_dirs=[tmp_path]), model)
    assert type(optimizer).__name__ == name
    assert [group["lr"] for group in optimizer.param_groups][1] == 0.5
    set_gradients(model)
    take_step(optimizer)
