"""Interpolants x_t = alpha(t) * data + sigma(t) * noise, and conversions between predictions.

Flow time t goes from noise (t = 0) to data (t = 1). An interpolant is defined by its coefficients
alpha and sigma and their derivatives. Given (x, t), data and noise determine each other, so a
prediction of data, noise, velocity, score or v can be converted to any other: `ends` returns data
and noise for a prediction, `target` returns the training target.

t is a float shared by the batch, or a tensor (N,) with one time per image. Shapes: N images, C
channels, H x W pixels or latent cells.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from dit_lab.core.errors import RequestError

PREDICTIONS = ("noise", "data", "v", "velocity", "score")
"""Kinds of prediction: noise or data; v = alpha * noise - sigma * data (Salimans & Ho 2022); the
velocity dx_t/dt; or the score, the gradient of log p_t.
"""


class Shares(NamedTuple):
    """Coefficients of data and noise at a time, broadcastable to images (N, C, H, W)."""

    alpha: Tensor
    sigma: Tensor

    def mix(self, data: Tensor, noise: Tensor) -> Tensor:
        """Return x = alpha * data + sigma * noise, (N, C, H, W)."""
        return self.alpha * data + self.sigma * noise

    def target(self, kind: str, data: Tensor, noise: Tensor) -> Tensor:
        """Return the target for a prediction of `kind`, except "velocity", given data and noise."""
        if kind == "noise":
            return noise
        if kind == "data":
            return data
        if kind == "v":
            return self.alpha * noise - self.sigma * data
        assert kind == "score", kind
        return -noise / self.sigma

    def ends(self, kind: str, value: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return (data, noise), given x and a prediction of `kind`, except "velocity".

        "noise" and "score" require alpha > 0, "data" requires sigma > 0.
        """
        if kind == "data":
            return value, (x - self.alpha * value) / self.sigma
        if kind == "v":
            size = self.alpha.square() + self.sigma.square()  # 1 on variance-preserving paths
            data = (self.alpha * x - self.sigma * value) / size
            return data, (self.sigma * x + self.alpha * value) / size
        noise = -self.sigma * value if kind == "score" else value
        return (x - self.sigma * noise) / self.alpha, noise


class Interpolant(ABC):
    """A path from noise to data. Subclasses define alpha, sigma and their derivatives in t.

    Models are trained, and samplers integrate, over the interval [t_min, t_max].
    """

    def __init__(self, *, t_min: float = 0.0, t_max: float = 1.0) -> None:
        self.t_min, self.t_max = t_min, t_max

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Return the coefficient of data at t, in the shape of t."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Return the coefficient of noise at t, in the shape of t."""

    @abstractmethod
    def alpha_dot(self, t: Tensor) -> Tensor:
        """Return d alpha / dt, in the shape of t."""

    @abstractmethod
    def sigma_dot(self, t: Tensor) -> Tensor:
        """Return d sigma / dt, in the shape of t."""

    def shares(self, t: Tensor | float, x: Tensor) -> Shares:
        """Return alpha and sigma at t, broadcastable to x."""
        t = time_like(t, x)
        return Shares(self.alpha(t), self.sigma(t))

    def interpolate(self, data: Tensor, noise: Tensor, t: Tensor | float) -> Tensor:
        """Return x_t (N, C, H, W)."""
        return self.shares(t, data).mix(data, noise)

    def velocity(self, data: Tensor, noise: Tensor, t: Tensor | float) -> Tensor:
        """Return dx_t/dt (N, C, H, W) for given data and noise."""
        t = time_like(t, data)
        return self.alpha_dot(t) * data + self.sigma_dot(t) * noise

    def target(self, kind: str, data: Tensor, noise: Tensor, t: Tensor | float) -> Tensor:
        """Return the target for a prediction of `kind` (see PREDICTIONS), given data and noise."""
        if kind == "velocity":
            return self.velocity(data, noise, t)
        return self.shares(t, data).target(kind, data, noise)

    def ends(self, kind: str, value: Tensor, x: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """Return (data, noise), given x and a prediction of `kind`, one of PREDICTIONS.

        For a velocity, this solves a 2 x 2 system per pixel. "noise" and "score" require alpha(t) >
        0, "data" requires sigma(t) > 0; "velocity" and "v" can be converted at all t.
        """
        shares = self.shares(t, x)
        if kind != "velocity":
            return shares.ends(kind, value, x)
        t = time_like(t, x)
        alpha_dot, sigma_dot = self.alpha_dot(t), self.sigma_dot(t)
        determinant = shares.alpha * sigma_dot - shares.sigma * alpha_dot
        data = (sigma_dot / determinant) * x - (shares.sigma / determinant) * value
        noise = (shares.alpha / determinant) * value - (alpha_dot / determinant) * x
        return data, noise

    def diffusion(self, t: Tensor) -> Tensor:
        """Return g(t)^2 / 2 of the forward SDE with linear drift and the marginals of this path.

        It is sigma * (sigma * alpha_dot / alpha - sigma_dot), and requires alpha(t) > 0. Ma et al.
        2024 (SiT), appendix; on a DDPM chain it is beta / 2 (Song et al. 2021).
        """
        sigma = self.sigma(t)
        return sigma * (sigma * self.alpha_dot(t) / self.alpha(t) - self.sigma_dot(t))

    def log_snr(self, t: Tensor) -> Tensor:
        """Return log(alpha^2 / sigma^2), increasing in t; infinite where alpha or sigma is 0."""
        return 2 * (self.alpha(t).log() - self.sigma(t).log())

    def final_sigma(self) -> float:
        """Return sigma(t_max); if it is positive, samplers end with a prediction of data."""
        return self.sigma(torch.tensor(self.t_max, dtype=torch.float64)).item()


def time_like(t: Tensor | float, x: Tensor) -> Tensor:
    """Return t as a tensor that broadcasts to x: () for a float, (N, 1, 1, 1) for (N,).

    A float becomes float64, which keeps a solver's grid exact, and stays on the CPU: a 0-d tensor
    neither promotes x nor makes the host wait for the accelerator.
    """
    if isinstance(t, Tensor):
        return t.to(x.device, x.dtype).reshape(-1, *[1] * (x.ndim - 1))
    return torch.tensor(t, dtype=torch.float64)


def shift_time(t: Tensor, shift: float) -> Tensor:
    """Shift times in [0, 1] towards noise (shift > 1) or data (shift < 1); 0 and 1 stay.

    The noise coefficient s = 1 - t becomes shift * s / (1 + (shift - 1) s): Esser et al. 2024,
    "Scaling Rectified Flow Transformers", eq. 23.
    """
    return t / (t + shift * (1 - t))


class Linear(Interpolant):
    """alpha = t, sigma = 1 - (1 - sigma_min) t.

    sigma_min = 0 is rectified flow (Liu et al. 2022, eq. 1) and SiT's linear path; sigma_min > 0
    is the conditional optimal-transport path of flow matching (Lipman et al. 2022, eq. 20-23).
    """

    def __init__(self, sigma_min: float = 0.0, *, t_min: float = 0.0, t_max: float = 1.0) -> None:
        super().__init__(t_min=t_min, t_max=t_max)
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


class Trigonometric(Interpolant):
    """alpha = sin(pi t / 2), sigma = cos(pi t / 2).

    Variance preserving; SiT's GVP path (Ma et al. 2024; Albergo & Vanden-Eijnden 2023).
    """

    def alpha(self, t: Tensor) -> Tensor:
        return torch.sin(math.pi / 2 * t)

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sin(math.pi / 2 * (1 - t))  # exactly 0 at t = 1, unlike the cosine

    def alpha_dot(self, t: Tensor) -> Tensor:
        return math.pi / 2 * self.sigma(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return -math.pi / 2 * self.alpha(t)


class VariancePreserving(Interpolant):
    """The VP diffusion in continuous time: beta falls linearly from 20 (noise) to 0.1 (data).

    log alpha = -(19.9 s^2 / 4 + 0.1 s / 2) with s = 1 - t, sigma = sqrt(1 - alpha^2) (Song et al.
    2021, eq. 33; SiT's VP path). Near data sigma grows like a square root, with unbounded slope, so
    the path ends at t = 0.999, where sigma = 0.01, as on a DDPM chain.
    """

    BETA_MIN, BETA_MAX = 0.1, 20.0

    def __init__(self, *, t_min: float = 0.0, t_max: float = 0.999) -> None:
        super().__init__(t_min=t_min, t_max=min(t_max, 0.999))

    def _log_alpha(self, t: Tensor) -> Tensor:
        s = 1 - t
        return -(self.BETA_MAX - self.BETA_MIN) / 4 * s * s - self.BETA_MIN / 2 * s

    def _beta(self, t: Tensor) -> Tensor:
        return self.BETA_MIN + (self.BETA_MAX - self.BETA_MIN) * (1 - t)

    def alpha(self, t: Tensor) -> Tensor:
        return self._log_alpha(t).exp()

    def sigma(self, t: Tensor) -> Tensor:
        return (-torch.expm1(2 * self._log_alpha(t))).sqrt()

    def alpha_dot(self, t: Tensor) -> Tensor:
        return self._beta(t) / 2 * self.alpha(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return -self._beta(t) / 2 * self.alpha(t).square() / self.sigma(t)
