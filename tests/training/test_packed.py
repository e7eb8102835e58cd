"""Linear layers with weights packed for the kernel, against plain ones."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from dit_lab.models.dit import DiT
from dit_lab.training import packed as packing
from dit_lab.training.packed import LEAST_SIZE, PackedLinear, pack
from dit_lab.training.parallel import Whole, for_sampling

WIDE = LEAST_SIZE


def layer(inputs: int = WIDE, outputs: int = 3 * WIDE, *, bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(inputs, outputs, bias=bias)


def packed(plain: nn.Linear) -> nn.Linear:
    copy = deepcopy(plain)
    pack(copy)
    assert type(copy) is PackedLinear
    return copy


@torch.no_grad()
def assert_alike(ours: nn.Module, theirs: nn.Module, x: Tensor) -> None:
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1,), (64,), (3, 16), (64, 16), (2, 3, 5)])
def test_the_function_is_that_of_a_linear_layer(shape: tuple[int, ...], bias: bool) -> None:
    plain = layer(bias=bias)
    assert_alike(packed(plain), plain, torch.randn(*shape, WIDE))


def test_inputs_may_lie_anyhow_in_memory() -> None:
    plain = layer()
    assert_alike(packed(plain), plain, torch.randn(16, WIDE, 8).transpose(1, 2))
    assert_alike(packed(plain), plain, torch.randn(16, 2 * WIDE)[:, ::2])
    assert_alike(packed(plain), plain, torch.randn(1, WIDE).expand(16, WIDE))


@torch.no_grad()
def test_weights_that_change_are_laid_out_anew() -> None:
    plain, x = layer(), torch.randn(16, WIDE)
    ours = packed(plain)
    ours(x)
    for change in (
        lambda one: one.weight.mul_(2),
        lambda one: one.bias.zero_(),
        lambda one: setattr(one, "weight", nn.Parameter(one.weight + 1)),
        lambda one: one.load_state_dict(layer().state_dict()),
    ):
        change(plain)
        change(ours)
        assert_alike(ours, plain, x)


@torch.no_grad()
def test_weights_are_laid_out_once() -> None:
    ours, x = packed(layer()), torch.randn(16, WIDE)
    ours(x)
    laid_out = ours._packed[2]  # type: ignore[union-attr]
    ours(x + 1)
    assert ours._packed[2] is laid_out  # type: ignore[union-attr]


def test_with_gradients_it_is_the_layer_as_it_was() -> None:
    plain = layer()
    ours = packed(plain)
    found: list[Any] = []
    for one in (plain, ours):
        x = torch.linspace(-1, 1, 4 * WIDE).view(4, WIDE).requires_grad_()
        output = one(x)
        output.square().sum().backward()
        found.append((output, x.grad, one.weight.grad, one.bias.grad))
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


@torch.no_grad()
def test_in_bfloat16_it_is_the_layer_as_it_was() -> None:
    plain, x = layer(), torch.randn(4, WIDE)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(packed(plain)(x), plain(x))


@pytest.mark.parametrize(
    "plain",
    [
        layer(WIDE - 1, WIDE),
        layer(WIDE, WIDE - 1),
        layer().double(),
        layer().bfloat16(),
        layer().to("meta"),
        type("TheirLinear", (nn.Linear,), {})(WIDE, WIDE),
    ],
)
def test_other_layers_are_left_alone(plain: nn.Linear) -> None:
    kind = type(plain)
    pack(plain)
    assert type(plain) is kind


def test_without_the_kernels_layers_stay_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """They have no public name, so that a later torch may be without them."""
    assert all(hasattr(torch.ops.mkldnn, name) for name in packing.KERNELS)
    monkeypatch.setattr(packing, "KERNELS", (*packing.KERNELS, "_of_no_version"))
    plain = layer()
    pack(plain)
    assert type(plain) is nn.Linear


# ---- models -------------------------------------------------------------------------------------


@pytest.fixture
def model() -> DiT:
    torch.manual_seed(0)
    model = DiT(
        input_size=(8, 8), patch_size=2, in_channels=1, hidden_size=WIDE, depth=2, num_heads=4,
        num_classes=10,
    )  # fmt: skip
    for weight in model.parameters():
        nn.init.normal_(weight, std=0.02)
    return model.eval()


INPUTS = torch.randn(5, 1, 8, 8), torch.rand(5), torch.arange(5)


@torch.no_grad()
def test_a_model_computes_the_same(model: DiT) -> None:
    before = model(*INPUTS)
    ours = for_sampling(model)
    assert sum(isinstance(module, PackedLinear) for module in ours.modules()) == 13
    torch.testing.assert_close(ours(*INPUTS), before, rtol=1e-5, atol=1e-6)
    assert not any(isinstance(module, PackedLinear) for module in model.modules())
    assert torch.equal(model(*INPUTS), before)
    weights, shared = dict(model.named_parameters()), dict(ours.named_parameters())
    assert weights.keys() == shared.keys()
    assert all(shared[name] is weight for name, weight in weights.items())
    model.blocks[0].mlp.fc1.weight.mul_(2)  # also where the model learns meanwhile
    torch.testing.assert_close(ours(*INPUTS), model(*INPUTS), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_a_training_evaluates_with_the_numbers_of_who_loads_the_weights(model: DiT) -> None:
    average = {name: weight * 0.5 for name, weight in model.named_parameters()}
    found = Whole(model.train(), Accelerator(cpu=True)).at(average)(*INPUTS)
    assert model.training
    model.load_state_dict(average)
    assert torch.equal(found, for_sampling(model)(*INPUTS))
