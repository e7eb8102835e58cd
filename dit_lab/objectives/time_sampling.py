"""Which flow times training looks at, as quantile functions of one uniform number per image.

A quantile function maps u in [0, 1) to t, so that the draw itself stays with the caller and one
stream of uniform numbers serves every distribution. float64 in and out.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from dit_lab.types import RequestError

Quantile = Callable[[Tensor], Tensor]

SMALLEST_UNIFORM = 2.0**-54  # half of the smallest positive double that a generator returns


def quantile_function(name: str, *, logit_mean: float, logit_std: float) -> Quantile:
    """The quantile function called `name`: "uniform" or "logit_normal"."""
    if name == "uniform":
        return uniform
    if name == "logit_normal":
        if logit_std <= 0:
            raise RequestError(f"logit_std: {logit_std} is not positive")
        return partial(logit_normal, mean=logit_mean, std=logit_std)
    raise RequestError(f"time_sampling: unknown {name!r}; use uniform or logit_normal")


def uniform(u: Tensor) -> Tensor:
    """All times alike."""
    return u


def logit_normal(u: Tensor, *, mean: float, std: float) -> Tensor:
    """Times whose logit log(t / (1 - t)) is N(mean, std^2): most in the middle, few at the ends.

    Esser et al. 2024, "Scaling Rectified Flow Transformers", eq. 19; mean > 0 leans to data.
    """
    u = u.clamp(min=SMALLEST_UNIFORM)  # the normal quantile of 0 is -inf
    return torch.sigmoid(mean + std * torch.special.ndtri(u))
