"""DDPM (Ho et al. 2020), with the learned variance of Nichol & Dhariwal 2021.

A chain of small steps turns data into noise; the model learns to step back. Each step back is a
Gaussian. Its mean follows from a guess of the noise in x, learned by plain squared error. Its
variance lies between two known bounds, and the model says where; that is learned from the
variational bound, which sees the mean as given, so that it cannot disturb it.

Shapes: N images, C channels, H x W pixels or latent cells, T timesteps.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dit_lab.interpolants import DiscreteDiffusion, linear_betas
from dit_lab.types import Batch, ModelCall, Prediction


class DDPM:
    """Noise prediction on a chain of linear betas.

    learn_sigma: the model has 2C output channels, the second half in [-1, 1] (softly) for the
        variance; the loss is then the hybrid one, `mse + vb`.
    """

    def __init__(self, *, num_timesteps: int = 1000, learn_sigma: bool = True) -> None:
        self.interpolant = DiscreteDiffusion(linear_betas(num_timesteps))
        self.learn_sigma = learn_sigma

    def time_from_uniform(self, uniform: Tensor) -> Tensor:
        """u in [0, 1), (N,), to the timestep floor(u T), (N,) int64."""
        return (uniform.to(torch.float64) * self.interpolant.num_timesteps).long()

    def loss(self, predict: ModelCall, batch: Batch) -> dict[str, Tensor]:
        """Per-image terms, each (N,) float32.

        "mse" is the squared error of the noise (Ho et al. 2020, eq. 14). With `learn_sigma`, "vb"
        is the bound's term at this timestep in bits per dimension, and "loss" is the sum: the
        hybrid loss of Nichol & Dhariwal 2021, eq. 16, with lambda = 1 / T, as the original DiT.
        """
        alpha, sigma = self.interpolant.shares(batch.time, batch.data)
        x = alpha * batch.data + sigma * batch.noise
        noise, fraction = self._split(predict(x, batch.time.float()).float())
        mse = (noise - batch.noise).square().flatten(1).mean(1)
        if fraction is None:
            return {"loss": mse, "mse": mse}
        data = (x - sigma * noise.detach()) / alpha
        vb = bound_in_bits(self.interpolant, batch.data, x, data, fraction, batch.time)
        return {"loss": mse + vb, "mse": mse, "vb": vb}

    def model_time(self, t: float) -> float:
        """Flow time t to the timestep, continuous between integers."""
        return self.interpolant.timestep(t)

    def prediction(self, output: Tensor, x: Tensor, t: float) -> Prediction:
        """Read a raw output (N, C or 2C, H, W) at x (N, C, H, W) and flow time t."""
        noise, fraction = self._split(output.to(x.dtype))
        data = self.interpolant.data_from_noise(noise, x, t)
        return Prediction(data=data, noise=noise, variance_fraction=fraction)

    def _split(self, output: Tensor) -> tuple[Tensor, Tensor | None]:
        """(noise, variance fraction); the model's -1 is fraction 0, its 1 is fraction 1."""
        if not self.learn_sigma:
            return output, None
        noise, variance = output.chunk(2, dim=1)
        return noise, (variance + 1) / 2


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
        chain.log_variance(None, x, timestep),
        mean,
        log_variance,
    )
    likelihood = discretised_log_likelihood(data, mean, log_variance / 2)
    nats = torch.where(timestep == 0, -likelihood.flatten(1).mean(1), divergence.flatten(1).mean(1))
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
