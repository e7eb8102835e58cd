"""The variational bound of a diffusion chain, one term at a time (Ho et al. 2020, eq. 5).

Shapes: N images, C channels, H x W pixels or latent cells.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dit_lab.core.discrete_diffusion import DiscreteDiffusion


def bound_in_bits(
    chain: DiscreteDiffusion,
    data: Tensor,
    x: Tensor,
    predicted_data: Tensor,
    variance_fraction: Tensor,
    timestep: Tensor,
) -> Tensor:
    """One term of the variational bound in bits per dimension, (N,); Ho et al. 2020, eq. 5.

    For timestep k > 0: KL from the true step back, q(x_{k-1} | x, data), to the model's. At
    k = 0: minus the log likelihood of `data`, as 8-bit pixels, under the model's last step.
    Images are (N, C, H, W), timestep int64 (N,).
    """
    mean = chain.posterior_mean(predicted_data, x, timestep)
    log_variance = chain.log_variance(variance_fraction, x, timestep)
    divergence = gaussian_kl(
        chain.posterior_mean(data, x, timestep),
        chain.log_variance(0.0, x, timestep),
        mean,
        log_variance,
    )
    nats, at_the_end = divergence.flatten(1).mean(1), timestep == 0
    if at_the_end.device.type != "cpu" or at_the_end.any():  # a GPU would have to be waited for
        likelihood = discretised_log_likelihood(data, mean, log_variance / 2)
        nats = torch.where(at_the_end, -likelihood.flatten(1).mean(1), nats)
    return nats / math.log(2)


def gaussian_kl(
    mean: Tensor, log_variance: Tensor, other_mean: Tensor, other_log_variance: Tensor
) -> Tensor:
    """KL(N(mean, variance) || N(other mean, other variance)) per element, in nats."""
    gap = log_variance - other_log_variance
    distance = (mean - other_mean).square() * torch.exp(-other_log_variance)
    return (gap.exp() - gap - 1 + distance) / 2


def discretised_log_likelihood(data: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Log probability, per element, that N(mean, std^2) falls into the 8-bit bin around `data`.

    Bins are 2/255 wide on [-1, 1]; the outermost two are open (Ho et al. 2020, eq. 13).
    """
    half_bin = 1 / 255
    precision = torch.exp(-log_std)
    below_top = _normal_cdf((data - mean + half_bin) * precision)
    below_bottom = _normal_cdf((data - mean - half_bin) * precision)
    probability = torch.where(
        data < -0.999,
        below_top,
        torch.where(data > 0.999, 1 - below_bottom, below_top - below_bottom),
    )
    return probability.clamp(min=1e-12).log()


def _normal_cdf(x: Tensor) -> Tensor:
    """The tanh approximation, as in the original: the bound's numbers are compared with its."""
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x.pow(3))))
