"""Cost computed from sizes, against published tables, built models, and torch's FLOP counter."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from dit_lab.core.cost import cost, recomputed_blocks, training_memory
from dit_lab.models.dit import DiT
from tests.measure.scaling_plan import MODEL as XL

SIZES = {"S": (384, 12, 6), "B": (768, 12, 12), "L": (1024, 24, 16), "XL": (1152, 28, 16)}
# Name, patch, parameters (exact), forward multiply-adds in units of 1e9 (3 decimals).
PUBLISHED = [
    ("S", 8, 33_148_160, 0.358),
    ("S", 4, 32_945_024, 1.413),
    ("S", 2, 32_963_360, 6.056),
    ("B", 8, 130_881_536, 1.418),
    ("B", 4, 130_475_648, 5.565),
    ("B", 2, 130_512_416, 23.005),
    ("L", 8, 458_594_816, 5.011),
    ("L", 4, 458_053_760, 19.696),
    ("L", 2, 458_102_816, 80.698),
    ("XL", 8, 675_683_072, 7.392),
    ("XL", 4, 675_074_432, 29.044),
    ("XL", 2, 675_129_632, 118.621),
]
ODD_CONFIGS: list[dict[str, Any]] = [
    {"input_size": (8, 16), "patch_size": 2, "in_channels": 3, "num_classes": 7},
    {"input_size": (8, 8), "patch_size": 1, "in_channels": 1, "num_classes": 0},
    {"input_size": (12, 4), "patch_size": 4, "in_channels": 4, "num_classes": 1000}
    | {"learn_sigma": False, "mlp_ratio": 2.5},
    {"input_size": (4, 4), "patch_size": 2, "in_channels": 2, "num_classes": 3}
    | {"class_dropout_prob": 0.0},
    {"input_size": (8, 8), "patch_size": 2, "in_channels": 4, "num_classes": 3}
    | {"norm": "rms", "mlp": "swiglu", "rope": True, "qk_norm": True, "mlp_ratio": 3.9},
    {"input_size": (8, 8), "patch_size": 2, "in_channels": 4, "num_classes": 3}
    | {"mlp": "swiglu", "qk_norm": True},
]


@pytest.mark.parametrize(("name", "patch_size", "parameters", "gmacs"), PUBLISHED)
def test_published_sizes(name: str, patch_size: int, parameters: int, gmacs: float) -> None:
    hidden_size, depth, num_heads = SIZES[name]
    config = {
        "input_size": (32, 32),
        "patch_size": patch_size,
        "in_channels": 4,
        "hidden_size": hidden_size,
        "depth": depth,
        "num_heads": num_heads,
        "num_classes": 1000,
    }
    found = cost(**config)
    assert found.parameters == parameters
    assert found.forward_macs_per_image / 1e9 == pytest.approx(gmacs, rel=3e-4, abs=5e-4)
    assert found.training_flops_per_image == 6 * found.forward_macs_per_image
    with torch.device("meta"):
        model = DiT(**config)
    assert sum(weight.numel() for weight in model.parameters()) == parameters
    block = sum(weight.numel() for weight in model.blocks[0].parameters())
    assert (found.depth, found.block_parameters) == (depth, block)
    assert found.end_parameters == found.trainable_parameters - depth * block


@pytest.mark.parametrize("config", ODD_CONFIGS)
def test_counts_of_built_models(config: dict[str, Any]) -> None:
    """Parameters, and the multiply-adds that torch itself counts, both exact."""
    config = config | {"hidden_size": 48, "depth": 3, "num_heads": 4}
    found = cost(**config)
    model = DiT(**config)
    weights = list(model.parameters())
    assert found.parameters == sum(w.numel() for w in weights)
    assert found.trainable_parameters == sum(w.numel() for w in weights if w.requires_grad)

    x = torch.zeros(2, config["in_channels"], *config["input_size"])
    # Attention as matrix products: not every release counts its fused kernel of CPUs.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(x, torch.zeros(2), torch.zeros(2, dtype=torch.int64))
    assert counter.get_total_flops() == 2 * 2 * found.forward_macs_per_image


SMALL: dict[str, Any] = {
    "input_size": (16, 32), "patch_size": 2, "in_channels": 4, "hidden_size": 96, "num_heads": 4,
    "num_classes": 10,
}  # fmt: skip
ADDITIONS: list[dict[str, Any]] = [
    {"mlp": "swiglu"},
    {"rope": True},
    {"qk_norm": True},
    {"norm": "rms"},
    {"norm": "rms", "qk_norm": True},
    {"norm": "rms", "mlp": "swiglu", "rope": True, "qk_norm": True},
]


def run_forward(model: DiT, bf16: bool) -> None:
    """Run the model on 8 images."""
    x, time, labels = torch.randn(8, 4, 16, 32), torch.zeros(8), torch.zeros(8, dtype=torch.int64)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        model(x, time, labels)


def saved_bytes(*, bf16: bool, **options: Any) -> int:
    """Return the bytes that autograd saves in a forward pass of 8 images, without weights.

    Shared storage counts once.
    """
    model = DiT(**SMALL, **options)
    weights = {w.untyped_storage().data_ptr() for w in (*model.parameters(), *model.buffers())}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run_forward(model, bf16)
    return sum(t.untyped_storage().nbytes() for at, t in kept.items() if at not in weights)


def estimate(bf16: bool, activation_checkpointing: int | str = "none", **options: Any) -> int:
    """Return the predicted bytes: activations, and copies of the weights."""
    model = cost(**SMALL, **options)
    memory = training_memory(
        model, batch_size=8, bf16=bf16, activation_checkpointing=activation_checkpointing
    )
    return memory.activations_bytes + memory.weights_bytes - 4 * model.parameters


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("checkpointing", ["none", 1, 2, 3])
def test_activation_estimate(bf16: bool, checkpointing: int | str) -> None:
    """Within 10%: the estimate omits the patches, the modulation and attention's sums."""
    measured = saved_bytes(depth=4, bf16=bf16, activation_checkpointing=checkpointing)
    if checkpointing != "none":  # and the insides of the one block that is redone
        one_more = saved_bytes(depth=2, bf16=bf16) - saved_bytes(depth=1, bf16=bf16)
        measured += one_more - 8 * 128 * 96 * 4  # its input is there already
    found = estimate(bf16, checkpointing, depth=4)
    assert found == pytest.approx(measured, rel=0.1)


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("options", ADDITIONS, ids=lambda options: ",".join(options))
def test_activation_estimate_of_other_layers(bf16: bool, options: dict[str, Any]) -> None:
    """The additional memory of such a block over an original one, within 5% of a block."""

    def block(count: Any, **options: Any) -> int:
        return count(depth=2, bf16=bf16, **options) - count(depth=1, bf16=bf16, **options)

    original = block(saved_bytes)
    more = block(saved_bytes, **options) - original
    copies = block(estimate, **options) - block(estimate)
    assert copies == pytest.approx(more, abs=0.05 * original)
    assert more > 0.05 * original  # each is seen


class Products(TorchDispatchMode):
    """Counts the bytes of the outputs of matrix products and attention."""

    total_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = func(*args, **(kwargs or {}))
        if func._opname in ("mm", "addmm") or "scaled_dot_product" in func._opname:
            first = given[0] if isinstance(given, tuple) else given
            self.total_bytes += first.untyped_storage().nbytes()
        return given


@pytest.mark.parametrize("bf16", [False, True])
def test_selective_keeps_what_products_give(bf16: bool) -> None:
    """Within 10%, as above; from the difference of two depths, so that only blocks count."""

    def products_bytes(depth: int) -> int:
        with Products() as products:
            run_forward(DiT(**SMALL, depth=depth), bf16)
        return products.total_bytes

    found = estimate(bf16, "selective", depth=6) - estimate(bf16, "selective", depth=4)
    inputs = 2 * 8 * 128 * 96 * 4
    measured = products_bytes(6) - products_bytes(4) + inputs
    assert found == pytest.approx(measured, rel=0.1)


def test_recomputing_more_keeps_less() -> None:
    choices = ("none", 28, 7, 4, 2, "selective", 1)
    kept = [estimate(True, choice, depth=28) for choice in choices]
    assert kept == sorted(kept, reverse=True)
    assert len(set(kept)) == len(kept)
    assert [recomputed_blocks(28, choice) for choice in choices] == [0, 1, 4, 7, 14, 28, 28]
    # Of a block and token in bfloat16: D = 96 and MLP 4 D, in units of D bytes.
    token = 8 * 128 * 96
    selective = estimate(True, "selective", depth=28) - estimate(True, 1, depth=28)
    # The redone block's rest is smaller by as much as is kept of it.
    assert selective == (28 - 1) * token * 2 * (6 + 4)


def test_memory_of_the_states() -> None:
    memory = training_memory(XL, batch_size=1, ema_copies=2)
    assert memory.weights_bytes == 4 * XL.parameters
    assert memory.gradients_bytes == 4 * XL.trainable_parameters
    assert memory.optimizer_bytes == 8 * XL.trainable_parameters
    one = training_memory(XL, batch_size=1, optimizer_copies=1)
    assert one.optimizer_bytes == 4 * XL.trainable_parameters
    assert memory.ema_bytes == 2 * 4 * XL.parameters
    assert memory.gathered_bytes == 0
    assert memory.total_bytes == memory.activations_bytes + 4 * (
        3 * XL.parameters + 3 * XL.trainable_parameters
    )


def test_every_process_of_ddp_holds_all_of_it() -> None:
    """Gradients are views of the buckets that are sent (gradient_as_bucket_view)."""
    alone = training_memory(XL, batch_size=4, bf16=True)
    assert training_memory(XL, batch_size=4, bf16=True, num_devices=2) == alone


@pytest.mark.parametrize("bf16", [False, True])
def test_shards_make_the_whole(bf16: bool) -> None:
    def memory(**given: Any) -> Any:
        return training_memory(XL, batch_size=4, bf16=bf16, **given)

    devices, trainable = 8, XL.trainable_parameters
    assert trainable % devices == XL.parameters % devices == 0
    shard = memory(num_devices=devices, sharded=True)
    assert devices * shard.weights_bytes == 4 * XL.parameters
    assert devices * shard.gradients_bytes == 4 * trainable
    assert devices * shard.optimizer_bytes == 8 * trainable
    assert devices * shard.ema_bytes == 4 * XL.parameters
    assert shard.activations_bytes == memory().activations_bytes
    block, ends = XL.block_parameters, trainable - 28 * XL.block_parameters
    assert shard.gathered_bytes == 2 * block * (2 if bf16 else 4) + 4 * ends + 4 * block
    # Gradients are reduced after the last micro-batch; until then each device has them whole.
    several = memory(num_devices=devices, sharded=True, accumulation=2)
    assert several.gradients_bytes == shard.gradients_bytes + 4 * trainable
    assert several.total_bytes - several.gradients_bytes == (
        shard.total_bytes - shard.gradients_bytes
    )


def test_cost_and_respacing_need_no_torch() -> None:
    modules = "dit_lab.core.communication_cost, dit_lab.samplers.respacing"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
