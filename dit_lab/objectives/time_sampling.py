"""Distributions of flow times in training, as quantile functions. float64 in and out.

A quantile function maps u in [0, 1) to t. The caller draws u, so that one stream of uniform numbers
serves every distribution.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from dit_lab.core.errors import RequestError

Quantile = Callable[[Tensor], Tensor]

SMALLEST_UNIFORM = 2.0**-54  # half of the smallest positive float64 of a torch generator
SHIFT_DIMENSION = 4096  # values of a latent with automatic shift 1: 32 x 32 x 4


def quantile_function(name: str, *, logit_mean: float, logit_std: float) -> Quantile:
    """Return the quantile function of a distribution of flow times.

    Args:
        name: "uniform", "logit_normal" or "cosmap".
        logit_mean: mean of the logit for "logit_normal".
        logit_std: standard deviation of the logit for "logit_normal".

    Raises:
        RequestError: the name is unknown, or `logit_std` is not positive.
    """
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
    """Return u: uniformly distributed times."""
    return u


def logit_normal(u: Tensor, *, mean: float, std: float) -> Tensor:
    """Map u to times whose logit log(t / (1 - t)) is N(mean, std^2), which favours the middle.

    mean > 0 moves the times towards data. Esser et al. 2024, "Scaling Rectified Flow
    Transformers", eq. 19.
    """
    u = u.clamp(min=SMALLEST_UNIFORM)  # the normal quantile of 0 is -inf
    return torch.sigmoid(mean + std * torch.special.ndtri(u))


def cosmap(u: Tensor) -> Tensor:
    """Map u to 1 - 1 / (tan(pi u / 2) + 1), whose density is 2 / (pi - 2 pi t + 2 pi t^2).

    On the straight path, the log-SNR is then distributed as under the cosine schedule (Esser et al.
    2024, eq. 21).
    """
    return 1 - 1 / (torch.tan(math.pi / 2 * u) + 1)


def automatic_shift(latent_shape: tuple[int, ...]) -> float:
    """Return the time shift sqrt(m / 4096) for latents of m values.

    Neighbouring values of a latent are redundant, so that larger latents need more noise to hide
    the same content (Zheng et al. 2025, "Diffusion Transformers with Representation Autoencoders",
    section 4.2).
    """
    return math.sqrt(math.prod(latent_shape) / SHIFT_DIMENSION)
