"""Training in float8: different products, the same parameters, unaffected evaluations.

    pip install -e '.[fp8]' && pytest -m extra tests/training/test_float8.py

On a device without float8 products they are emulated: same numbers, not the speed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from dit_lab.models.dit import DiT
from dit_lab.training.float8 import in_float8
from dit_lab.training.parallel import Whole

pytestmark = pytest.mark.extra
IN_FLOAT8 = {"attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"}
INPUTS = (
    torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(3)),
    torch.linspace(0, 999, 8),
    torch.arange(8),
)


@pytest.fixture(autouse=True)
def _other_precision() -> Iterator[None]:
    """Accelerate keeps one precision for the whole process; other tests have theirs."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def is_float8(part: nn.Module) -> bool:
    from torchao.float8.float8_linear import Float8Linear

    return isinstance(part, Float8Linear)


@pytest.fixture
def model(make_model: Callable[..., DiT]) -> DiT:
    return make_model(perturbed=True)


def gradients(trained: nn.Module, model: nn.Module) -> Mapping[str, Tensor]:
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        trained(*INPUTS).float().square().mean().backward()
    return {name: w.grad.clone() for name, w in model.named_parameters() if w.grad is not None}


def test_a_copy_has_the_very_weights_and_other_products(model: DiT) -> None:
    copy = in_float8(model)
    ours, theirs = (dict(m.named_parameters()) for m in (model, copy))
    assert ours.keys() == theirs.keys()
    assert all(theirs[name] is weight for name, weight in ours.items())
    for block in copy.blocks:
        found = {name for name, part in block.named_modules() if is_float8(part)}
        assert found == IN_FLOAT8
    outside = [part for part in copy.modules() if is_float8(part)]
    assert len(outside) == len(IN_FLOAT8) * len(model.blocks)
    assert not any(is_float8(part) for part in model.modules())


def test_sizes_that_gpus_do_not_take_stay_as_they_are(make_model: Callable[..., DiT]) -> None:
    copy = in_float8(make_model(hidden_size=24, num_heads=2))  # 24, 72 and 96
    assert not any(is_float8(part) for part in copy.modules())


def test_gradients_are_nearly_those_of_bfloat16(model: DiT) -> None:
    """Every weight's points the same way; three bits behind the point leave some per cent."""
    exact, rounded = gradients(model, model), gradients(in_float8(model), model)
    assert exact.keys() == rounded.keys()
    for name, gradient in exact.items():
        if gradient.norm() > 0:
            both = torch.stack([gradient.flatten(), rounded[name].flatten()])
            assert torch.nn.functional.cosine_similarity(*both, dim=0) > 0.98, name
            assert (rounded[name] - gradient).norm() < 0.2 * gradient.norm(), name
    qkv = "blocks.0.attn.qkv.weight"
    assert (rounded[qkv] - exact[qkv]).norm() > 0.005 * exact[qkv].norm()  # bfloat16 keeps more


def test_evaluations_are_in_bfloat16(model: DiT) -> None:
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    weights = {name: weight.detach() * 0.5 for name, weight in model.named_parameters()}
    found = []
    for trained in (None, in_float8(model)):
        whole = Whole(model, accelerator, trained=trained)
        with torch.no_grad():
            averaged = whole.at(weights)
            found.append(averaged(*INPUTS))
    assert torch.equal(*found)
    assert not torch.equal(whole(*INPUTS), found[0])
