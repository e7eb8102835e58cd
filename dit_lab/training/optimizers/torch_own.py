"""Optimizers of torch, adapted to this training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.optim import SGD, Adafactor, Optimizer

from dit_lab.training.optimizers.uncompiled import without_compiler
from dit_lab.training.tensor_files import is_sharded


def sgd(
    params: Any, *, lr: float, momentum: float, nesterov: bool, weight_decay: float
) -> Optimizer:
    """Build `torch.optim.SGD`, fused unless parameters are sharded, as torch requires."""
    first = params[0]["params"][0] if isinstance(params[0], dict) else params[0]
    fused = not is_sharded(first)
    optimizer = without_compiler(SGD)(
        params,
        lr=lr,
        momentum=momentum,
        nesterov=nesterov,
        weight_decay=weight_decay,
        fused=fused,
    )  # type: ignore[call-arg]
    if fused and momentum:
        # If the first step is skipped, torch would use uninitialised memory.
        for weight in (weight for group in optimizer.param_groups for weight in group["params"]):
            optimizer.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
    return optimizer


def adafactor(
    params: Any,
    *,
    lr: float,
    beta2_decay: float,
    eps: Sequence[float | None],
    d: float,
    weight_decay: float,
) -> Optimizer:
    """Build `torch.optim.Adafactor` (Shazeer & Stern 2018)."""
    return without_compiler(Adafactor)(
        params, lr=lr, beta2_decay=beta2_decay, eps=tuple(eps), d=d, weight_decay=weight_decay
    )  # type: ignore[call-arg]
