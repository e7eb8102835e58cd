"""Optimizers of optional packages: `pip install 'dit-lab[optimizers]'`."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from io import StringIO
from typing import Any

from torch.optim import Optimizer


def schedule_free_adamw(
    params: Any,
    *,
    lr: float,
    betas: Sequence[float],
    eps: float,
    weight_decay: float,
    r: float,
    weight_lr_power: float,
) -> Optimizer:
    """Build schedule-free AdamW (Defazio et al. 2024, "The Road Less Scheduled").

    The parameters always are the points y at which gradients are taken. `ema.ScheduleFree` computes
    the average x separately, so that evaluating and saving do not have to swap parameters.
    """
    from schedulefree import AdamWScheduleFree

    optimizer: Any = AdamWScheduleFree(
        params,
        lr=lr,
        betas=tuple(betas),
        eps=eps,
        weight_decay=weight_decay,
        r=r,
        weight_lr_power=weight_lr_power,
    )
    optimizer.train()
    return optimizer


def prodigy(
    params: Any,
    *,
    lr: float,
    betas: Sequence[float],
    beta3: float | None,
    eps: float,
    weight_decay: float,
    d0: float,
    d_coef: float,
    growth_rate: float | None,
    use_bias_correction: bool,
    safeguard_warmup: bool,
) -> Optimizer:
    """Build Prodigy, AdamW with an estimated step size (Mishchenko & Defazio 2023)."""
    from prodigyopt import Prodigy

    with contextlib.redirect_stdout(StringIO()):  # it prints its kind of weight decay
        optimizer: Optimizer = Prodigy(
            params,
            lr=lr,
            betas=tuple(betas),
            beta3=beta3,
            eps=eps,
            weight_decay=weight_decay,
            d0=d0,
            d_coef=d_coef,
            growth_rate=math.inf if growth_rate is None else growth_rate,
            use_bias_correction=use_bias_correction,
            safeguard_warmup=safeguard_warmup,
        )
    return optimizer


def lion(params: Any, *, lr: float, betas: Sequence[float], weight_decay: float) -> Optimizer:
    """Build Lion (Chen et al. 2023, "Symbolic Discovery of Optimization Algorithms")."""
    from lion_pytorch import Lion

    optimizer: Optimizer = Lion(params, lr=lr, betas=tuple(betas), weight_decay=weight_decay)
    return optimizer
