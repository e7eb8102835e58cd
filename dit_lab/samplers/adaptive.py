"""Adaptive ODE sampler (Dormand & Prince 1980), by torchdiffeq.

The step sizes are chosen for all images of a call together, so that an image depends, within the
tolerance, on the other images of its batch.

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
from dit_lab.samplers.ode import Velocity, denoise_end, velocity_of


class Dopri5:
    """Dormand-Prince solver: fifth order, with a fourth-order error estimate. Draws no noise.

    The error of a step, as a root mean square over all images, stays below atol + rtol * |x|. The
    NFE follows from the tolerance and is known only after sampling. On a DDPM chain, whose log-SNR
    has a kink at every timestep, errors of about 3e-4 remain for any tolerance.

    Args:
        rtol: relative tolerance, above 0.
        atol: absolute tolerance, above 0.
    """

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
        """Integrate noise (N, C, H, W) to data (N, C, H, W); see `types.Sampler`."""
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
            # Without step_t, the last step goes beyond the end of the path.
            options={"step_t": span[-1:], "dtype": wide},
        )
        return denoise_end(ends[-1], interpolant.t_max, predict, interpolant)


def clamp_to_path(t: Tensor, interpolant: Interpolant) -> float:
    """Return the time t (a 0-d tensor) as a float, clamped to the path.

    torchdiffeq may evaluate beyond the end of the path when it guesses the size of the first step.
    """
    return min(max(t.item(), interpolant.t_min), interpolant.t_max)


class _Flow:
    """Velocity with the interface of torchdiffeq; calls `on_step` after every accepted step."""

    def __init__(
        self, velocity: Velocity, interpolant: Interpolant, on_step: Callable[[int], None] | None
    ) -> None:
        self._velocity, self._interpolant, self._on_step = velocity, interpolant, on_step
        self._accepted = 0

    def __call__(self, t: Tensor, x: Tensor) -> Tensor:
        return self._velocity(x, clamp_to_path(t, self._interpolant))

    def callback_accept_step(self, t: Tensor, x: Tensor, dt: Tensor) -> None:
        if self._on_step is not None:
            self._on_step(self._accepted)
        self._accepted += 1
