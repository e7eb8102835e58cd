"""ODE samplers with fixed steps: Euler, midpoint, Heun and RK4.

They integrate dx/dt = velocity(x, t) from noise to data. The velocity follows from the predicted
data and noise, whatever the model was trained to predict, so that these samplers serve flows and
DDPM chains. If noise is left at the end of the path, a last prediction of the data removes it.

Shapes: N images, C channels, H x W pixels or latent cells.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dit_lab.core.interpolants import Interpolant
from dit_lab.core.types import DrawNoise, Predict
from dit_lab.samplers.grid import TimeGrid

Velocity = Callable[[Tensor, float], Tensor]


def velocity_of(predict: Predict, interpolant: Interpolant) -> Velocity:
    """Return the velocity dx/dt of the probability flow as a function of (x, t)."""

    def velocity(x: Tensor, t: float) -> Tensor:
        prediction = predict(x, t)
        return interpolant.velocity(prediction.data, prediction.noise, t)

    return velocity


def denoise_end(x: Tensor, t: float, predict: Predict, interpolant: Interpolant) -> Tensor:
    """Return x if the path has no noise at t, else the prediction of the data."""
    left = interpolant.sigma(torch.tensor(t, dtype=torch.float64)) > 0
    return predict(x, t).data if left else x


class FixedStep(ABC):
    """Base class of the fixed-step solvers; a subclass defines one step. Draws no noise.

    Args:
        steps: number of steps.
        time_grid, time_shift, times: as in `TimeGrid`.
    """

    def __init__(
        self,
        *,
        steps: int,
        time_grid: str = "uniform",
        time_shift: float = 1.0,
        times: Sequence[float] | None = None,
    ) -> None:
        self.grid = TimeGrid(steps=steps, time_grid=time_grid, time_shift=time_shift, times=times)

    @abstractmethod
    def advance(self, velocity: Velocity, x: Tensor, t: float, t_next: float) -> Tensor:
        """Return x (N, C, H, W) at t_next, integrated from x at t."""

    @torch.no_grad()
    def sample(
        self,
        predict: Predict,
        noise: Tensor,
        *,
        interpolant: Interpolant,
        draw_noise: DrawNoise,
        on_step: Callable[[int], None] | None = None,
    ) -> Tensor:
        """Integrate noise (N, C, H, W) to data (N, C, H, W); see `types.Sampler`."""
        velocity = velocity_of(predict, interpolant)
        times = self.grid.over(interpolant.t_min, interpolant.t_max)
        x = noise
        for step in range(self.grid.steps):
            x = self.advance(velocity, x, times[step], times[step + 1])
            if on_step is not None:
                on_step(step)
        return denoise_end(x, times[-1], predict, interpolant)


class Euler(FixedStep):
    """Euler's method, first order: one evaluation per step, at its start."""

    def advance(self, velocity: Velocity, x: Tensor, t: float, t_next: float) -> Tensor:
        return x + (t_next - t) * velocity(x, t)


class Midpoint(FixedStep):
    """Midpoint method, second order: two evaluations per step, at its start and in its middle."""

    def advance(self, velocity: Velocity, x: Tensor, t: float, t_next: float) -> Tensor:
        h = t_next - t
        return x + h * velocity(x + h / 2 * velocity(x, t), t + h / 2)


class Heun(FixedStep):
    """Heun's method, second order: mean velocity of both ends of an Euler step; two evaluations."""

    def advance(self, velocity: Velocity, x: Tensor, t: float, t_next: float) -> Tensor:
        h = t_next - t
        first = velocity(x, t)
        second = velocity(x + h * first, t_next)
        return x + (h / 2) * (first + second)


class RK4(FixedStep):
    """Kutta's 3/8 rule (1901), fourth order: four evaluations per step; torchdiffeq's `rk4`."""

    def advance(self, velocity: Velocity, x: Tensor, t: float, t_next: float) -> Tensor:
        h = t_next - t
        k1 = velocity(x, t)
        k2 = velocity(x + h * k1 / 3, t + h / 3)
        k3 = velocity(x + h * (k2 - k1 / 3), t + 2 * h / 3)
        k4 = velocity(x + h * (k1 - k2 + k3), t_next)
        return x + h * (k1 + 3 * (k2 + k3) + k4) / 8
