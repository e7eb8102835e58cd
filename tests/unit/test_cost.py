"""Cost from numbers alone, against published tables, built models, and what torch counts."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from dit_lab.cost import Cost, cost, training_memory
from dit_lab.models.dit import DiT

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
]


def cost_without_heads(config: dict[str, Any]) -> Cost:
    return cost(**{key: value for key, value in config.items() if key != "num_heads"})


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
    found = cost_without_heads(config)
    assert found.parameters == parameters
    assert found.forward_macs_per_image / 1e9 == pytest.approx(gmacs, rel=3e-4, abs=5e-4)
    assert found.training_flops_per_image == 6 * found.forward_macs_per_image
    with torch.device("meta"):
        model = DiT(**config)
    assert sum(weight.numel() for weight in model.parameters()) == parameters


@pytest.mark.parametrize("config", ODD_CONFIGS)
def test_counts_of_built_models(config: dict[str, Any]) -> None:
    """Parameters, and the multiply-adds that torch itself counts, both exact."""
    config = config | {"hidden_size": 48, "depth": 3, "num_heads": 4}
    found = cost_without_heads(config)
    model = DiT(**config)
    weights = list(model.parameters())
    assert found.parameters == sum(w.numel() for w in weights)
    assert found.trainable_parameters == sum(w.numel() for w in weights if w.requires_grad)

    x = torch.zeros(2, config["in_channels"], *config["input_size"])
    with FlopCounterMode(display=False) as counter:
        model(x, torch.zeros(2), torch.zeros(2, dtype=torch.int64))
    assert counter.get_total_flops() == 2 * 2 * found.forward_macs_per_image


def saved_bytes(*, depth: int, bf16: bool, checkpointing: bool) -> int:
    """What autograd keeps of a forward pass of 8 images; no weights, shared storage once."""
    model = DiT(
        input_size=(16, 32),
        patch_size=2,
        in_channels=4,
        hidden_size=96,
        depth=depth,
        num_heads=4,
        num_classes=10,
        activation_checkpointing=checkpointing,
    )
    weights = {w.untyped_storage().data_ptr() for w in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    x, time, labels = torch.randn(8, 4, 16, 32), torch.zeros(8), torch.zeros(8, dtype=torch.int64)
    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        model(x, time, labels)
    return sum(t.untyped_storage().nbytes() for at, t in kept.items() if at not in weights)


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_activation_estimate(bf16: bool, checkpointing: bool) -> None:
    """Within 10 %: the estimate leaves out the patches, the modulation and attention's sums."""
    size = {"hidden_size": 96, "depth": 4}
    model = cost(input_size=(16, 32), patch_size=2, in_channels=4, num_classes=10, **size)
    memory = training_memory(
        model, **size, batch_size=8, bf16=bf16, activation_checkpointing=checkpointing
    )
    estimate = memory.activations_bytes + memory.weights_bytes - 4 * model.parameters
    measured = saved_bytes(depth=4, bf16=bf16, checkpointing=checkpointing)
    if checkpointing:  # and the insides of the one block that is redone
        one_more = saved_bytes(depth=2, bf16=bf16, checkpointing=False)
        measured += one_more - saved_bytes(depth=1, bf16=bf16, checkpointing=False)
    assert estimate == pytest.approx(measured, rel=0.1)


def test_memory_of_the_states() -> None:
    size = {"hidden_size": 1152, "depth": 28}
    model = cost(input_size=(32, 32), patch_size=2, in_channels=4, num_classes=1000, **size)
    memory = training_memory(model, **size, batch_size=1, ema_copies=2)
    assert memory.weights_bytes == 4 * model.parameters
    assert memory.gradients_bytes == 4 * model.trainable_parameters
    assert memory.optimizer_bytes == 8 * model.trainable_parameters
    assert memory.ema_bytes == 2 * 4 * model.parameters
    assert memory.total_bytes == memory.activations_bytes + 4 * (
        3 * model.parameters + 3 * model.trainable_parameters
    )


def test_cost_and_respacing_need_no_torch() -> None:
    code = "import sys, dit_lab.cost, dit_lab.samplers.respacing; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
