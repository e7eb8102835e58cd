"""The optimizer's learning rate, its step under the non-finite guard, and its state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


def set_learning_rate(optimizer: Optimizer, factor: float) -> float:
    """Set every group to its own base rate times the factor; returns the first group's rate."""
    for group in optimizer.param_groups:
        group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor
    return optimizer.param_groups[0]["lr"]


def guarded_step(optimizer: Optimizer, nonfinite: Tensor) -> None:
    """Step, unless `nonfinite` () is 1: then neither weights nor the optimizer's counters move.

    Fused optimizers take the flag on the device (as `found_inf`, made for gradient scalers), so no
    step waits for the host; the others cost one synchronisation.
    """
    if optimizer.defaults.get("fused"):
        weight = optimizer.param_groups[0]["params"][0]
        optimizer.found_inf = nonfinite.to(weight.device)  # type: ignore[attr-defined]
        optimizer.step()
    elif not nonfinite.item():
        optimizer.step()


def optimizer_tensors(optimizer: Optimizer, names: Mapping[Tensor, str]) -> dict[str, Tensor]:
    """The optimizer's state as `<parameter name>/<state name>` -> tensor, for safetensors."""
    return {
        f"{names[parameter]}/{key}": torch.as_tensor(value)
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }


def load_optimizer_tensors(
    optimizer: Optimizer, names: Mapping[Tensor, str], tensors: Mapping[str, Tensor]
) -> None:
    """Restore what `optimizer_tensors` gave, for parameters that have a state."""
    by_name: dict[str, dict[str, Tensor]] = {}
    for path, tensor in tensors.items():
        name, _, key = path.rpartition("/")
        by_name.setdefault(name, {})[key] = tensor
    order = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[str, Any] = optimizer.state_dict()
    state["state"] = {i: by_name[names[p]] for i, p in enumerate(order) if names[p] in by_name}
    optimizer.load_state_dict(state)
