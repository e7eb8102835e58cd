"""Sampling in a few jumps, each by one evaluation, with models that were trained to jump.

A model of the average velocity (`mean_flow`, `shortcut`) jumps from t to the next time of the grid.
A consistency model predicts the data at the end of the trajectory; the next point is on the line
between this prediction and the noise that it implies.

Shapes: N images, C channels, H x W pixels or latent cells.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dit_lab.core.interpolants import Interpolant
from dit_lab.core.types import DrawNoise, Predict
from dit_lab.samplers.grid import TimeGrid


class Jump:
    """Jumps along a time grid, one evaluation each.

    Args:
        steps: number of jumps.
        time_grid, time_shift, times: as in `TimeGrid`.
        renew_noise: jump to the data each time and return to the next time with new noise, which is
            multistep consistency sampling (Song et al. 2023, "Consistency Models", algorithm 1).
    """

    def __init__(
        self,
        *,
        steps: int,
        time_grid: str = "uniform",
        time_shift: float = 1.0,
        times: Sequence[float] | None = None,
        renew_noise: bool = False,
    ) -> None:
        self.grid = TimeGrid(steps=steps, time_grid=time_grid, time_shift=time_shift, times=times)
        self.renew_noise = renew_noise

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
        """Transform noise (N, C, H, W) to data (N, C, H, W); see `types.Sampler`."""
        times = self.grid.over(interpolant.t_min, interpolant.t_max)
        x, last = noise, self.grid.steps - 1
        for step in range(self.grid.steps):
            renewed = self.renew_noise and step < last
            ends = predict(x, times[step], to=times[-1] if renewed else times[step + 1])
            left = draw_noise(step) if renewed else ends.noise
            x = interpolant.interpolate(ends.data, left, times[step + 1])
            if on_step is not None:
                on_step(step)
        return x
