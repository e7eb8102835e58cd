"""Terms of the variational bound of a diffusion chain (Ho et al. 2020, eq. 5).

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
    """Return one term of the variational bound for each image, in bits per dimension.

    At timestep k > 0: KL divergence from the posterior q(x_{k-1} | x, data) to the model's step.
    At k = 0: negative log-likelihood of `data`, as 8-bit pixels, under the model's last step.

    Args:
        chain: the diffusion chain.
        data: clean images (N, C, H, W).
        x: noisy images (N, C, H, W) at `timestep`.
        predicted_data: the model's prediction of `data`, (N, C, H, W).
        variance_fraction: the model's variance (N, C, H, W), see `DiscreteDiffusion.log_variance`.
        timestep: k of each image, (N,) int64.

    Returns:
        (N,); Ho et al. 2020, eq. 5.
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
    if at_the_end.device.type != "cpu" or at_the_end.any():  # avoids a GPU sync
        likelihood = discretised_log_likelihood(data, mean, log_variance / 2)
        nats = torch.where(at_the_end, -likelihood.flatten(1).mean(1), nats)
    return nats / math.log(2)


def gaussian_kl(
    mean: Tensor, log_variance: Tensor, other_mean: Tensor, other_log_variance: Tensor
) -> Tensor:
    """Return KL(N(mean, variance) || N(other mean, other variance)) per element, in nats."""
    gap = log_variance - other_log_variance
    distance = (mean - other_mean).square() * torch.exp(-other_log_variance)
    return (gap.exp() - gap - 1 + distance) / 2


def discretised_log_likelihood(data: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Return the log-probability of the 8-bit bin around `data` under N(mean, std^2).

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
    """Return the normal CDF by the original code's tanh approximation, so that bounds compare."""
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x.pow(3))))
