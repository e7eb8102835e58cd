"""Interpolants x_t = alpha(t) * data + sigma(t) * noise, and conversions between predictions.

Flow time t runs from noise (t = 0) to data (t = 1). A path is two functions, the shares alpha and
sigma of its ends, and their derivatives; velocity, score and the conversions follow from those.
t is a float shared by the batch, or a tensor (N,) with one time per image.

Shapes: N images, C channels, H x W pixels or latent cells, T timesteps of a discrete chain.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from dit_lab.types import RequestError


class Interpolant(ABC):
    """A path from noise to data. Subclasses give the shares and their derivatives in t."""

    t_min: float = 0.0
    t_max: float = 1.0

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Share of data at t; same shape as t."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Share of noise at t; same shape as t."""

    @abstractmethod
    def alpha_dot(self, t: Tensor) -> Tensor:
        """d alpha / dt."""

    @abstractmethod
    def sigma_dot(self, t: Tensor) -> Tensor:
        """d sigma / dt."""

    def interpolate(self, data: Tensor, noise: Tensor, t: Tensor | float) -> Tensor:
        """x_t (N, C, H, W)."""
        t = time_like(t, data)
        return self.alpha(t) * data + self.sigma(t) * noise

    def velocity(self, data: Tensor, noise: Tensor, t: Tensor | float) -> Tensor:
        """dx_t/dt along the path that joins `noise` to `data`."""
        t = time_like(t, data)
        return self.alpha_dot(t) * data + self.sigma_dot(t) * noise

    def ends_from_velocity(
        self, velocity: Tensor, x: Tensor, t: Tensor | float
    ) -> tuple[Tensor, Tensor]:
        """(data, noise) that explain both x and its velocity: a 2 x 2 system per pixel."""
        t = time_like(t, x)
        alpha, sigma = self.alpha(t), self.sigma(t)
        alpha_dot, sigma_dot = self.alpha_dot(t), self.sigma_dot(t)
        determinant = alpha * sigma_dot - sigma * alpha_dot
        data = (sigma_dot / determinant) * x - (sigma / determinant) * velocity
        noise = (alpha / determinant) * velocity - (alpha_dot / determinant) * x
        return data, noise

    def data_from_noise(self, noise: Tensor, x: Tensor, t: Tensor | float) -> Tensor:
        """The data end of x, given its noise end. Needs alpha(t) > 0."""
        t = time_like(t, x)
        return (x - self.sigma(t) * noise) / self.alpha(t)

    def noise_from_data(self, data: Tensor, x: Tensor, t: Tensor | float) -> Tensor:
        """The noise end of x, given its data end. Needs sigma(t) > 0."""
        t = time_like(t, x)
        return (x - self.alpha(t) * data) / self.sigma(t)

    def score(self, noise: Tensor, t: Tensor | float) -> Tensor:
        """Gradient of log p_t at x, from the noise end. Needs sigma(t) > 0."""
        return -noise / self.sigma(time_like(t, noise))

    def leftover_noise(self) -> float:
        """sigma(t_max): where it is positive, samplers end with a noise-free prediction of data."""
        return self.sigma(torch.tensor(self.t_max, dtype=torch.float64)).item()


def time_like(t: Tensor | float, x: Tensor) -> Tensor:
    """t as a tensor that broadcasts against x (N, C, H, W): 0-d for a float, (N, 1, 1, 1) for (N,).

    A float becomes float64, so that a solver's grid is exact, and stays on the CPU: a 0-d tensor
    neither promotes x nor makes the host wait for the accelerator.
    """
    if isinstance(t, Tensor):
        return t.to(x.device, x.dtype).reshape(-1, *[1] * (x.ndim - 1))
    return torch.tensor(t, dtype=torch.float64)


class Linear(Interpolant):
    """alpha = t, sigma = 1 - (1 - sigma_min) t.

    sigma_min = 0 is rectified flow (Liu et al. 2022, eq. 1) and SiT's linear path; sigma_min > 0
    is the conditional optimal-transport path of flow matching (Lipman et al. 2022, eq. 20-23).
    """

    def __init__(self, sigma_min: float = 0.0) -> None:
        if not 0 <= sigma_min < 1:
            raise RequestError(f"sigma_min: {sigma_min} is not in [0, 1)")
        self.sigma_min = sigma_min

    def alpha(self, t: Tensor) -> Tensor:
        return t

    def sigma(self, t: Tensor) -> Tensor:
        return 1 - (1 - self.sigma_min) * t

    def alpha_dot(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return torch.full_like(t, self.sigma_min - 1)


class DiscreteDiffusion(Interpolant):
    """A variance-preserving chain of T betas (Ho et al. 2020), also read in continuous time.

    The chain adds noise in T small steps; alpha_bar[k] = prod(1 - beta[0..k]) is what is left of
    the data's variance at timestep k. Two readings, one object:

    - discrete: the posterior of one step back, at integer timesteps, for DDPM's bound and for
      ancestral samplers. `respaced` gives the same chain seen only at some of its timesteps.
    - continuous: timestep k sits at t = 1 - k / (T - 1), and between integer timesteps the log-SNR
      lambda = log(alpha_bar / (1 - alpha_bar)) is linear in tau = (T - 1)(1 - t), so that
      alpha = sqrt(sigmoid(lambda)), sigma = sqrt(sigmoid(-lambda)). For ODE samplers.

    Timesteps are an int shared by the batch or int64 (N,). Tables are float64; what is looked up
    takes the dtype of the images it is used with.
    """

    def __init__(self, betas: Tensor) -> None:
        if betas.ndim != 1 or len(betas) < 2 or not bool(((betas > 0) & (betas < 1)).all()):
            raise RequestError("betas: need at least two numbers, all strictly between 0 and 1")
        self.betas = betas.to("cpu", torch.float64)  # (T,)
        self.alphas_cumprod = torch.cumprod(1 - self.betas, dim=0)  # (T,)
        self.log_snr = torch.log(self.alphas_cumprod) - torch.log1p(-self.alphas_cumprod)  # (T,)
        self._alpha = _Table(self.alphas_cumprod.sqrt())
        self._sigma = _Table((1 - self.alphas_cumprod).sqrt())
        self._build_posterior()

    def _build_posterior(self) -> None:
        """Tables of q(x_{k-1} | x_k, data), Ho et al. 2020, eq. 7."""
        before = torch.cat([torch.ones(1, dtype=torch.float64), self.alphas_cumprod[:-1]])
        gone = 1 - self.alphas_cumprod
        variance = self.betas * (1 - before) / gone
        # The step from timestep 0 ends in data and has variance 0; its logarithm borrows the next.
        variance = torch.cat([variance[1:2], variance[1:]])
        self._log_beta = _Table(self.betas.log())
        self._log_posterior_variance = _Table(variance.log())
        self._mean_of_data = _Table(self.betas * before.sqrt() / gone)
        self._mean_of_x = _Table((1 - self.betas).sqrt() * (1 - before) / gone)

    @property
    def num_timesteps(self) -> int:
        return len(self.betas)

    # Discrete reading

    def respaced(self, timesteps: Sequence[int]) -> DiscreteDiffusion:
        """The chain that visits only `timesteps`, ascending (Nichol & Dhariwal 2021, eq. 19).

        Its timestep i is `timesteps[i]` of this chain, with the same alpha_bar.
        """
        kept = self.alphas_cumprod[list(timesteps)]
        before = torch.cat([torch.ones(1, dtype=torch.float64), kept[:-1]])
        return DiscreteDiffusion(1 - kept / before)

    def shares(self, timestep: Tensor | int, x: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha, sigma) of a timestep, broadcasting against x: x_k = alpha data + sigma noise."""
        return self._alpha.at(timestep, x), self._sigma.at(timestep, x)

    def posterior_mean(self, data: Tensor, x: Tensor, timestep: Tensor | int) -> Tensor:
        """Mean of q(x_{k-1} | x_k = x, data), (N, C, H, W); at timestep 0 that is `data`."""
        of_data, of_x = self._mean_of_data.at(timestep, x), self._mean_of_x.at(timestep, x)
        return of_data * data + of_x * x

    def log_variance(self, fraction: Tensor | None, x: Tensor, timestep: Tensor | int) -> Tensor:
        """Log variance of one step back from x, broadcasting against x (N, C, H, W).

        None gives the posterior's own, the smallest sensible one. A learned `fraction` in [0, 1],
        shaped like x, moves it towards beta, the largest, on a log scale (Nichol & Dhariwal 2021,
        eq. 15).
        """
        low = self._log_posterior_variance.at(timestep, x)
        if fraction is None:
            return low
        return fraction * self._log_beta.at(timestep, x) + (1 - fraction) * low

    # Continuous reading

    def timestep(self, t: float) -> float:
        """tau in [0, T - 1] at flow time t; in float32 it is integer where t is a grid point."""
        return (self.num_timesteps - 1) * (1 - t)

    def flow_time(self, timestep: float) -> float:
        """t in [0, 1] of a timestep."""
        return 1 - timestep / (self.num_timesteps - 1)

    def _log_snr_and_slope(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """lambda and d lambda / dt at t, by linear interpolation of the table.

        At a timestep, where the slope jumps, it is the mean of both sides: solvers whose steps end
        on timesteps then keep their order.
        """
        table = self.log_snr.to(t.device)
        last = self.num_timesteps - 1
        tau = (last * (1 - t.to(torch.float64))).clamp(0, last)
        nearest = tau.round()  # a grid point computed in floating point is that grid point
        tau = torch.where((tau - nearest).abs() < 1e-9 * last, nearest, tau)
        low = tau.floor().long().clamp(max=last - 1)
        side = (tau.ceil().long() - 1).clamp(min=0)  # equals `low` between timesteps
        rise = table.diff()  # (T - 1,)
        log_snr = table[low] + rise[low] * (tau - low)
        return log_snr, -last * (rise[low] + rise[side]) / 2

    def alpha(self, t: Tensor) -> Tensor:
        log_snr, _ = self._log_snr_and_slope(t)
        return torch.sigmoid(log_snr).sqrt().to(t.dtype)

    def sigma(self, t: Tensor) -> Tensor:
        log_snr, _ = self._log_snr_and_slope(t)
        return torch.sigmoid(-log_snr).sqrt().to(t.dtype)

    def alpha_dot(self, t: Tensor) -> Tensor:
        # d/dlambda sqrt(sigmoid(lambda)) = sqrt(sigmoid(lambda)) * sigmoid(-lambda) / 2
        log_snr, slope = self._log_snr_and_slope(t)
        alpha, variance = torch.sigmoid(log_snr).sqrt(), torch.sigmoid(-log_snr)
        return (0.5 * alpha * variance * slope).to(t.dtype)

    def sigma_dot(self, t: Tensor) -> Tensor:
        log_snr, slope = self._log_snr_and_slope(t)
        sigma, share = torch.sigmoid(-log_snr).sqrt(), torch.sigmoid(log_snr)
        return (-0.5 * sigma * share * slope).to(t.dtype)


class _Table:
    """One float64 number per timestep, looked up for a batch of images.

    A copy is kept for each device and dtype that asked: making it anew at every training step
    would make the host wait for the accelerator.
    """

    def __init__(self, values: Tensor) -> None:
        self._values = values  # (T,) float64 on the CPU
        self._copies: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def at(self, timestep: Tensor | int, x: Tensor) -> Tensor:
        """0-d for an int, (N, 1, 1, 1) for (N,): both broadcast against x and keep its dtype."""
        if isinstance(timestep, int):
            return self._values[timestep]
        place = (x.device, x.dtype)
        if place not in self._copies:
            self._copies[place] = self._values.to(x.dtype).to(x.device)
        return self._copies[place][timestep].reshape(-1, *[1] * (x.ndim - 1))


def linear_betas(num_timesteps: int = 1000) -> Tensor:
    """The 1e-4 .. 0.02 schedule of Ho et al. 2020, rescaled with the number of timesteps.

    (T,) float64. Rescaling keeps the noise at the end of the chain about the same for every T.
    """
    if num_timesteps <= 20:
        raise RequestError(f"num_timesteps: {num_timesteps} gives a beta >= 1; use 21 or more")
    scale = 1000 / num_timesteps
    return torch.linspace(scale * 1e-4, scale * 0.02, num_timesteps, dtype=torch.float64)
