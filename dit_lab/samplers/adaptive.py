"""ODE sampling with steps as long as a tolerance allows (Dormand & Prince 1980), by torchdiffeq.

The steps are chosen for all images of a call together, so that an image depends, within the
tolerance, on those that are drawn with it.

Shapes: N images, C channels, H x W pixels or latent cells.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dit_lab.core.devices import widest_float
from dit_lab.core.errors import RequestError
from dit_lab.core.interpolants import Interpolant
from dit_lab.core.types import DrawNoise, Predict
from dit_lab.samplers.ode import Velocity, velocity_of, without_noise


class Dopri5:
    """Fifth order with an error estimate of fourth; the error of a step, as a root mean square
    over all images, stays below atol + rtol * |x|. How often the model is asked is found out by
    sampling. On a DDPM chain, whose log-SNR has a corner at every timestep, errors of some 3e-4
    remain whatever the tolerance."""

    def __init__(self, *, rtol: float = 1e-5, atol: float = 1e-5) -> None:
        if rtol <= 0 or atol <= 0:
            raise RequestError(f"rtol={rtol}, atol={atol}: both must be above 0")
        self.rtol, self.atol = rtol, atol

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
        from torchdiffeq import odeint

        flow = _Flow(velocity_of(predict, interpolant), interpolant, on_step)
        wide = widest_float(noise.device)
        span = torch.tensor([interpolant.t_min, interpolant.t_max], dtype=wide, device=noise.device)
        ends = odeint(
            flow,
            noise,
            span,
            rtol=self.rtol,
            atol=self.atol,
            method="dopri5",
            # without step_t the last step reaches beyond the path
            options={"step_t": span[-1:], "dtype": wide},
        )
        return without_noise(ends[-1], interpolant.t_max, predict, interpolant)


def on_path(t: Tensor, interpolant: Interpolant) -> float:
    """A time () that torchdiffeq asks about, or the end of the path that it lies beyond: the guess
    of the first step may, however short the path is."""
    return min(max(t.item(), interpolant.t_min), interpolant.t_max)


class _Flow:
    """A velocity as torchdiffeq calls it; `on_step` hears of every step that was good enough."""

    def __init__(
        self, velocity: Velocity, interpolant: Interpolant, on_step: Callable[[int], None] | None
    ) -> None:
        self._velocity, self._interpolant, self._on_step = velocity, interpolant, on_step
        self._accepted = 0

    def __call__(self, t: Tensor, x: Tensor) -> Tensor:
        return self._velocity(x, on_path(t, self._interpolant))

    def callback_accept_step(self, t: Tensor, x: Tensor, dt: Tensor) -> None:
        if self._on_step is not None:
            self._on_step(self._accepted)
        self._accepted += 1
