"""ODE samplers with equal steps: follow the predicted velocity from noise to data.

The path from noise to data is dx/dt = velocity(x, t). The model's prediction of the two ends
gives it, whatever the model was trained to predict, so these samplers serve flows and DDPM chains
alike. Where the path stops short of data (sigma(t_max) > 0), one last prediction of data removes
what noise is left.

Shapes: N images, C channels, H x W pixels or latent cells.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from dit_lab.interpolants import Interpolant
from dit_lab.types import DrawNoise, Predict, RequestError

Velocity = Callable[[Tensor, float], Tensor]


class FixedStep(ABC):
    """`steps` equal steps in t; a subclass says how one step is made."""

    evaluations_per_step: int

    def __init__(self, *, steps: int) -> None:
        if steps < 1:
            raise RequestError(f"steps: {steps} is not at least 1")
        self.steps = steps

    @abstractmethod
    def advance(self, velocity: Velocity, x: Tensor, t: float, t_next: float) -> Tensor:
        """x (N, C, H, W) carried from t to t_next."""

    def evaluations(self, interpolant: Interpolant) -> int:
        """Predictions asked for per image."""
        return self.steps * self.evaluations_per_step + (interpolant.leftover_noise() > 0)

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

        def velocity(x: Tensor, t: float) -> Tensor:
            prediction = predict(x, t)
            return interpolant.velocity(prediction.data, prediction.noise, t)

        start, span = interpolant.t_min, interpolant.t_max - interpolant.t_min
        times = [start + span * step / self.steps for step in range(self.steps + 1)]
        x = noise
        for step in range(self.steps):
            x = self.advance(velocity, x, times[step], times[step + 1])
            if on_step is not None:
                on_step(step)
        if interpolant.leftover_noise() > 0:
            x = predict(x, interpolant.t_max).data
        return x


class Euler(FixedStep):
    """First order: the velocity at the start of a step holds for all of it."""

    evaluations_per_step = 1

    def __init__(self, *, steps: int = 50) -> None:
        super().__init__(steps=steps)

    def advance(self, velocity: Velocity, x: Tensor, t: float, t_next: float) -> Tensor:
        return x + (t_next - t) * velocity(x, t)


class Heun(FixedStep):
    """Second order: the mean of the velocities at both ends of an Euler step."""

    evaluations_per_step = 2

    def __init__(self, *, steps: int = 25) -> None:
        super().__init__(steps=steps)

    def advance(self, velocity: Velocity, x: Tensor, t: float, t_next: float) -> Tensor:
        h = t_next - t
        first = velocity(x, t)
        second = velocity(x + h * first, t_next)
        return x + (h / 2) * (first + second)
