"""ODE samplers with fixed steps: follow the predicted velocity from noise to data.

The path from noise to data is dx/dt = velocity(x, t). The model's prediction of the two ends
gives it, whatever the model was trained to predict, so these samplers serve flows and DDPM chains
alike. Where the path stops short of data (noise is left at its end), one last prediction of data
removes what noise is left.

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
    """The right-hand side of the flow's equation."""

    def velocity(x: Tensor, t: float) -> Tensor:
        prediction = predict(x, t)
        return interpolant.velocity(prediction.data, prediction.noise, t)

    return velocity


def without_noise(x: Tensor, t: float, predict: Predict, interpolant: Interpolant) -> Tensor:
    """x where no noise is left in it at t, else the prediction of data."""
    left = interpolant.sigma(torch.tensor(t, dtype=torch.float64)) > 0
    return predict(x, t).data if left else x


class FixedStep(ABC):
    """`steps` steps on a time grid; a subclass says how one step is made.

    time_grid, time_shift, times: see `TimeGrid`.
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
        """x (N, C, H, W) carried from t to t_next."""

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
        """noise (N, C, H, W) -> data (N, C, H, W); see `types.Sampler`. Draws no noise."""
        velocity = velocity_of(predict, interpolant)
        times = self.grid.over(interpolant.t_min, interpolant.t_max)
        x = noise
        for step in range(self.grid.steps):
            x = self.advance(velocity, x, times[step], times[step + 1])
            if on_step is not None:
                on_step(step)
        return without_noise(x, times[-1], predict, interpolant)


class Euler(FixedStep):
    """First order: the velocity at the start of a step holds for all of it."""

    def advance(self, velocity: Velocity, x: Tensor, t: float, t_next: float) -> Tensor:
        return x + (t_next - t) * velocity(x, t)


class Midpoint(FixedStep):
    """Second order: the velocity in the middle of an Euler step."""

    def advance(self, velocity: Velocity, x: Tensor, t: float, t_next: float) -> Tensor:
        h = t_next - t
        return x + h * velocity(x + h / 2 * velocity(x, t), t + h / 2)


class Heun(FixedStep):
    """Second order: the mean of the velocities at both ends of an Euler step."""

    def advance(self, velocity: Velocity, x: Tensor, t: float, t_next: float) -> Tensor:
        h = t_next - t
        first = velocity(x, t)
        second = velocity(x + h * first, t_next)
        return x + (h / 2) * (first + second)


class RK4(FixedStep):
    """Fourth order: Kutta's 3/8 rule (1901), as torchdiffeq's and SiT's rk4."""

    def advance(self, velocity: Velocity, x: Tensor, t: float, t_next: float) -> Tensor:
        h = t_next - t
        k1 = velocity(x, t)
        k2 = velocity(x + h * k1 / 3, t + h / 3)
        k3 = velocity(x + h * (k2 - k1 / 3), t + 2 * h / 3)
        k4 = velocity(x + h * (k1 - k2 + k3), t_next)
        return x + h * (k1 + 3 * (k2 + k3) + k4) / 8
