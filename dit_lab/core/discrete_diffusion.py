"""Discrete diffusion: a chain of betas, which is also an interpolant in continuous time.

Shapes: N images, C channels, H x W pixels or latent cells, T timesteps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dit_lab.core.errors import RequestError
from dit_lab.core.interpolants import Interpolant, Shares

SMALLEST_ALPHA_BAR = 2.0**-24  # lower bound of alpha_bar for the log-SNR


class DiscreteDiffusion(Interpolant):
    """A variance-preserving chain of T betas (Ho et al. 2020), also defined in continuous time.

    The chain adds noise in T small steps; alpha_bar[k] = prod(1 - beta[0..k]) is the remaining
    variance of the data at timestep k. The object has two interfaces:

    - discrete: the posterior of one reverse step at integer timesteps, for DDPM's bound and for
      ancestral samplers. `respaced` returns the chain on a subset of its timesteps.
    - continuous, for ODE samplers: timestep k is at t = 1 - k / (T - 1). Between integer timesteps
      the log-SNR lambda = log(alpha_bar / (1 - alpha_bar)) is linear in tau = (T - 1)(1 - t), and
      alpha = sqrt(sigmoid(lambda)), sigma = sqrt(sigmoid(-lambda)).

    The last beta may be 1 (zero terminal SNR). There alpha is 0, and lambda approaches that of
    alpha_bar = 2^-24.

    Timesteps are an int shared by the batch, or int64 (N,). Tables are float64; products of their
    values with images keep the dtype of the images.
    """

    def __init__(self, betas: Tensor) -> None:
        super().__init__()
        inside = bool(((betas > 0) & (betas <= 1)).all()) and bool((betas[:-1] < 1).all())
        if betas.ndim != 1 or len(betas) < 2 or not inside:
            raise RequestError(
                "betas: need at least two numbers, all above 0 and below 1 (the last may be 1)"
            )
        self.betas = betas.to("cpu", torch.float64)  # (T,)
        self.alphas_cumprod = torch.cumprod(1 - self.betas, dim=0)  # (T,)
        self._log_snr = self.alphas_cumprod.clamp(min=SMALLEST_ALPHA_BAR).logit()  # (T,)
        self._alpha = _Table(self.alphas_cumprod.sqrt())
        self._sigma = _Table((1 - self.alphas_cumprod).sqrt())
        self._build_posterior()

    def _build_posterior(self) -> None:
        """Tables of q(x_{k-1} | x_k, data), Ho et al. 2020, eq. 7."""
        before = torch.cat([torch.ones(1, dtype=torch.float64), self.alphas_cumprod[:-1]])
        gone = 1 - self.alphas_cumprod
        variance = self.betas * (1 - before) / gone
        # The step from timestep 0 has variance 0; its log variance is set to that of timestep 1.
        variance = torch.cat([variance[1:2], variance[1:]])
        self._log_beta = _Table(self.betas.log())
        self._log_posterior_variance = _Table(variance.log())
        self._mean_of_data = _Table(self.betas * before.sqrt() / gone)
        self._mean_of_x = _Table((1 - self.betas).sqrt() * (1 - before) / gone)

    @property
    def num_timesteps(self) -> int:
        return len(self.betas)

    # ---- discrete time ----

    def respaced(self, timesteps: Sequence[int]) -> DiscreteDiffusion:
        """Return the chain on a subset of the timesteps, in ascending order.

        Nichol & Dhariwal 2021, eq. 19.

        Timestep i of the result is `timesteps[i]` of this chain, with the same alpha_bar.
        """
        kept = self.alphas_cumprod[list(timesteps)]
        before = torch.cat([torch.ones(1, dtype=torch.float64), kept[:-1]])
        return DiscreteDiffusion(1 - kept / before)

    def shares_at(self, timestep: Tensor | int, x: Tensor) -> Shares:
        """Return alpha and sigma at a timestep, for use with images like x."""
        return Shares(self._alpha.at(timestep, x), self._sigma.at(timestep, x))

    def posterior_mean(self, data: Tensor, x: Tensor, timestep: Tensor | int) -> Tensor:
        """Return the mean of q(x_{k-1} | x_k = x, data), (N, C, H, W); `data` at timestep 0."""
        of_data, of_x = self._mean_of_data.at(timestep, x), self._mean_of_x.at(timestep, x)
        return of_data * data + of_x * x

    def log_variance(self, fraction: Tensor | float, x: Tensor, timestep: Tensor | int) -> Tensor:
        """Return the log variance of one reverse step from x, broadcastable to x (N, C, H, W).

        A fraction of 0 gives the variance of the posterior (the lower bound), 1 gives beta (the
        upper bound); in between, the log variance is interpolated linearly (Nichol & Dhariwal 2021,
        eq. 15). A learned fraction has the shape of x.
        """
        low = self._log_posterior_variance.at(timestep, x)
        return fraction * self._log_beta.at(timestep, x) + (1 - fraction) * low

    # ---- continuous time ----

    def timestep(self, t: float) -> float:
        """Return tau in [0, T - 1] at flow time t; an integer in float32 if t is a grid point."""
        return (self.num_timesteps - 1) * (1 - t)

    def flow_time(self, timestep: float) -> float:
        """Return the flow time t in [0, 1] of a timestep."""
        return 1 - timestep / (self.num_timesteps - 1)

    def _log_snr_and_slope(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return lambda and d lambda / dt at t, by linear interpolation of the table.

        At a timestep, where the slope jumps, the mean of both sides is returned: solvers whose
        steps end on timesteps then keep their order.
        """
        table = self._log_snr.to(t.device)
        last = self.num_timesteps - 1
        tau = (last * (1 - t.to(torch.float64))).clamp(0, last)
        nearest = tau.round()  # removes rounding errors of grid points
        tau = torch.where((tau - nearest).abs() < 1e-9 * last, nearest, tau)
        low = tau.floor().long().clamp(max=last - 1)
        side = (tau.ceil().long() - 1).clamp(min=0)  # equals `low` between timesteps
        rise = table.diff()  # (T - 1,)
        log_snr = table[low] + rise[low] * (tau - low)
        return log_snr, -last * (rise[low] + rise[side]) / 2

    def alpha(self, t: Tensor) -> Tensor:
        log_snr, _ = self._log_snr_and_slope(t)
        alpha = torch.sigmoid(log_snr).sqrt().to(t.dtype)
        return alpha if self.alphas_cumprod[-1] > 0 else torch.where(t <= 0, 0.0, alpha)

    def sigma(self, t: Tensor) -> Tensor:
        log_snr, _ = self._log_snr_and_slope(t)
        sigma = torch.sigmoid(-log_snr).sqrt().to(t.dtype)
        return sigma if self.alphas_cumprod[-1] > 0 else torch.where(t <= 0, 1.0, sigma)

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
    """A table of one float64 number per timestep, looked up for batches of images.

    A copy is cached for each device and dtype: copying at every training step would make the host
    wait for the accelerator.
    """

    def __init__(self, values: Tensor) -> None:
        self._values = values  # (T,) float64 on the CPU
        self._copies: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def at(self, timestep: Tensor | int, x: Tensor) -> Tensor:
        """Return values that broadcast to x: shape () for an int, (N, 1, 1, 1) for (N,)."""
        if isinstance(timestep, int):
            return self._values[timestep]
        place = (x.device, x.dtype)
        if place not in self._copies:
            self._copies[place] = self._values.to(x.dtype).to(x.device)
        return self._copies[place][timestep].reshape(-1, *[1] * (x.ndim - 1))


# ---- schedules ----------------------------------------------------------------------------------


def make_betas(schedule: str, num_timesteps: int, *, zero_terminal_snr: bool = False) -> Tensor:
    """Return the betas (T,) float64 of a schedule: "linear", "scaled_linear" or "cosine"."""
    if schedule not in SCHEDULES:
        raise RequestError(f"beta_schedule: unknown {schedule!r}; use {', '.join(SCHEDULES)}")
    betas = SCHEDULES[schedule](num_timesteps)
    return with_zero_terminal_snr(betas) if zero_terminal_snr else betas


def linear_betas(num_timesteps: int = 1000) -> Tensor:
    """Return the schedule 1e-4 .. 0.02 of Ho et al. 2020, scaled by 1000 / T; (T,) float64.

    The scaling keeps the noise at the end of the chain about the same for every T.
    """
    if num_timesteps <= 20:
        raise RequestError(f"num_timesteps: {num_timesteps} gives a beta >= 1; use 21 or more")
    scale = 1000 / num_timesteps
    return torch.linspace(scale * 1e-4, scale * 0.02, num_timesteps, dtype=torch.float64)


def scaled_linear_betas(num_timesteps: int = 1000) -> Tensor:
    """Return betas that are linear in sqrt(beta) from 0.00085 to 0.012, scaled by 1000 / T.

    The schedule of latent diffusion (Rombach et al. 2022). (T,) float64.
    """
    if num_timesteps <= 12:
        raise RequestError(f"num_timesteps: {num_timesteps} gives a beta >= 1; use 13 or more")
    ends = (math.sqrt(0.00085), math.sqrt(0.012))
    scale = 1000 / num_timesteps
    return scale * torch.linspace(*ends, num_timesteps, dtype=torch.float64).square()


def cosine_betas(num_timesteps: int = 1000) -> Tensor:
    """Return the cosine schedule, with betas of at most 0.999.

    alpha_bar(u) = cos((u + 0.008) / 1.008 * pi / 2)^2 at u = k / T.

    Nichol & Dhariwal 2021, eq. 17. (T,) float64.
    """
    u = torch.arange(num_timesteps + 1, dtype=torch.float64) / num_timesteps
    alpha_bar = torch.cos((u + 0.008) / 1.008 * math.pi / 2).square()
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=0.999)


SCHEDULES: dict[str, Callable[[int], Tensor]] = {
    "linear": linear_betas,
    "scaled_linear": scaled_linear_betas,
    "cosine": cosine_betas,
}


def with_zero_terminal_snr(betas: Tensor) -> Tensor:
    """Return the betas rescaled to zero terminal SNR.

    sqrt(alpha_bar) is transformed linearly: the first timestep keeps its value, the last becomes 0
    (Lin et al. 2024, "Common Diffusion Noise Schedules and Sample Steps Are Flawed", algorithm 1).
    """
    root = torch.cumprod(1 - betas, dim=0).sqrt()
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    alpha_bar = root.square()
    alphas = torch.cat([alpha_bar[:1], alpha_bar[1:] / alpha_bar[:-1]])
    return 1 - alphas
