"""The optimizer's learning rate, its step under the non-finite guard, and its state."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dit_lab.training.parallel import whole_of

WRAPPED = ("add_param_group", "state_dict", "load_state_dict", "zero_grad")  # besides the step

CLIP_EPS = 1e-6  # as torch's own clipping adds to the norm


def without_compiler(kind: type[Optimizer]) -> type[Optimizer]:
    """The same optimizer, if it is one of torch's own, with the same arithmetic and state, for a
    step that is never compiled: what torch wraps around its methods to keep `torch.compile` out of
    them imports the compiler, 1.1 s of processor time before the first step (0.001 s without).
    Methods that a version of torch does not wrap are used as they are."""
    if not kind.__module__.startswith("torch.optim."):
        return kind
    plain_step = inspect.unwrap(kind.step)

    def step(self: Optimizer, closure: Callable[[], float] | None = None) -> float | None:
        with torch.set_grad_enabled(self.defaults["differentiable"]):
            return plain_step(self, closure)

    bare = {name: inspect.unwrap(getattr(kind, name)) for name in WRAPPED}
    return type(kind.__name__, (kind,), {**bare, "step": step, "__doc__": kind.__doc__})


def set_learning_rate(optimizer: Optimizer, factor: float) -> float:
    """Set every group to its own base rate times the factor; returns the first group's rate."""
    for group in optimizer.param_groups:
        group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor
    return optimizer.param_groups[0]["lr"]


def gradient_norm(optimizer: Optimizer) -> Tensor:
    """The norm () of all gradients together, over all processes that hold a part of them."""
    return whole_of(nn.utils.get_total_norm(_gradients(optimizer)))


def guarded_step(
    optimizer: Optimizer, nonfinite: Tensor, *, norm: Tensor, clip_norm: float | None
) -> None:
    """Step by gradients whose norm () is brought down to `clip_norm` where it is above, unless
    `nonfinite` () is 1: then neither weights nor the optimizer's counters move.

    Fused optimizers take both on the device (as `grad_scale` and `found_inf`, made for gradient
    scalers): no step waits for the host, and clipping takes no pass over memory of its own. The
    others cost one synchronisation.
    """
    divisor = None if clip_norm is None else ((norm + CLIP_EPS) / clip_norm).clamp(min=1.0)
    if optimizer.defaults.get("fused"):
        device = optimizer.param_groups[0]["params"][0].device
        optimizer.found_inf = nonfinite.to(device)  # type: ignore[attr-defined]
        if divisor is not None:
            divisor = divisor.to(device, torch.float32)  # also of float64 weights
        optimizer.grad_scale = divisor  # type: ignore[attr-defined]
        optimizer.step()
    elif not nonfinite.item():
        if divisor is not None:
            gradients = _gradients(optimizer)
            torch._foreach_div_(gradients, divisor.to(gradients[0].device))
        optimizer.step()


def _gradients(optimizer: Optimizer) -> list[Tensor]:
    weights = (weight for group in optimizer.param_groups for weight in group["params"])
    return [weight.grad for weight in weights if weight.grad is not None]


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
