"""Which flow times training looks at, as quantile functions of one uniform number per image.

A quantile function maps u in [0, 1) to t, so that the draw itself stays with the caller and one
stream of uniform numbers serves every distribution. float64 in and out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from dit_lab.core.errors import RequestError

Quantile = Callable[[Tensor], Tensor]

SMALLEST_UNIFORM = 2.0**-54  # half of the smallest positive double that a generator returns
SHIFT_DIMENSION = 4096  # numbers of a latent whose automatic shift is 1: 32 x 32 x 4


def quantile_function(name: str, *, logit_mean: float, logit_std: float) -> Quantile:
    """The quantile function called `name`: "uniform", "logit_normal" or "cosmap"."""
    if name == "uniform":
        return uniform
    if name == "cosmap":
        return cosmap
    if name == "logit_normal":
        if logit_std <= 0:
            raise RequestError(f"logit_std: {logit_std} is not positive")
        return partial(logit_normal, mean=logit_mean, std=logit_std)
    raise RequestError(f"time_sampling: unknown {name!r}; use uniform, logit_normal or cosmap")


def uniform(u: Tensor) -> Tensor:
    """All times alike."""
    return u


def logit_normal(u: Tensor, *, mean: float, std: float) -> Tensor:
    """Times whose logit log(t / (1 - t)) is N(mean, std^2): most in the middle, few at the ends.

    Esser et al. 2024, "Scaling Rectified Flow Transformers", eq. 19; mean > 0 leans to data.
    """
    u = u.clamp(min=SMALLEST_UNIFORM)  # the normal quantile of 0 is -inf
    return torch.sigmoid(mean + std * torch.special.ndtri(u))


def cosmap(u: Tensor) -> Tensor:
    """1 - 1 / (tan(pi u / 2) + 1), with density 2 / (pi - 2 pi t + 2 pi t^2).

    On the straight path the log-SNR is then distributed as under the cosine schedule (Esser et al.
    2024, eq. 21).
    """
    return 1 - 1 / (torch.tan(math.pi / 2 * u) + 1)


def automatic_shift(latent_shape: tuple[int, ...]) -> float:
    """sqrt(m / 4096) for m numbers per image: where neighbouring numbers say the same, more of them
    need more noise to be hidden (Zheng et al. 2025, "Diffusion Transformers with Representation
    Autoencoders", section 4.2)."""
    return math.sqrt(math.prod(latent_shape) / SHIFT_DIMENSION)
