"""Learning rate of an optimizer, and its step under the non-finite guard."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dit_lab.training.optimizers.combined import parts_of
from dit_lab.training.parallel import full_tensor_of

CLIP_EPS = 1e-6  # added to the norm, as in torch's clipping


def set_learning_rate(optimizer: Optimizer, factor: float) -> float:
    """Set each group's rate to its base rate times the factor; return the first group's rate."""
    for group in optimizer.param_groups:
        group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor
    return optimizer.param_groups[0]["lr"]


def gradient_norm(optimizer: Optimizer) -> Tensor:
    """Return the norm () of all gradients together, over all shards."""
    return full_tensor_of(nn.utils.get_total_norm(_gradients(optimizer)))


def guarded_step(
    optimizer: Optimizer, nonfinite: Tensor, *, norm: Tensor, clip_norm: float | None
) -> None:
    """Clip gradients with norm () to `clip_norm` and step, unless `nonfinite` () is 1.

    In that case neither the parameters nor the optimizer's counters change. Optimizers that take
    `grad_scale` and `found_inf` (made for gradient scalers: the fused ones of torch, and Muon) do
    both on the device, without a sync and without a separate pass over memory for clipping. For all
    others, the host waits for the flag at every step.
    """
    divisor = None if clip_norm is None else ((norm + CLIP_EPS) / clip_norm).clamp(min=1.0)
    parts = parts_of(optimizer)
    if all(getattr(part, "_step_supports_amp_scaling", False) for part in parts):
        device = optimizer.param_groups[0]["params"][0].device
        if divisor is not None:
            divisor = divisor.to(device, torch.float32)  # also for float64 parameters
        for part in parts:
            part.found_inf = nonfinite.to(device)  # type: ignore[attr-defined]
            part.grad_scale = divisor  # type: ignore[attr-defined]
        optimizer.step()
    elif not nonfinite.item():
        if divisor is not None:
            gradients = _gradients(optimizer)
            torch._foreach_div_(gradients, divisor.to(gradients[0].device))
        optimizer.step()


def _gradients(optimizer: Optimizer) -> list[Tensor]:
    weights = (weight for group in optimizer.param_groups for weight in group["params"])
    return [weight.grad for weight in weights if weight.grad is not None]
