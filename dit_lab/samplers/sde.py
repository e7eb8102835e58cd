"""SDE sampler: follows the flow while it replaces part of the noise.

dx = (velocity + w(t) * score) dt + sqrt(2 w(t)) dW has the flow's marginals for every w >= 0 (Ma et
al. 2024, SiT, eq. 6; Albergo et al. 2023): noise is added at the rate at which the score removes
it. A larger w corrects more of the model's errors and needs more steps.

Shapes: N images, C channels, H x W pixels or latent cells.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dit_lab.core.errors import RequestError
from dit_lab.core.interpolants import Interpolant
from dit_lab.core.types import DrawNoise, Predict, Prediction
from dit_lab.samplers.grid import TimeGrid, noisy_steps
from dit_lab.samplers.reuse import evaluate_every

Diffusion = Callable[[float, Interpolant], float]

ROUNDING = 1e-9  # relative; the rate can equal its limit, as that of "sigma" at its last step does

KEPT = math.exp(-1)  # fraction of the noise that a step with a limited rate keeps

LAST_STEPS = ("mean", "tweedie", "euler", "none")


def _at(share: Callable[[Tensor], Tensor], t: float) -> float:
    return share(torch.tensor(t, dtype=torch.float64)).item()


DIFFUSIONS: dict[str, Diffusion] = {
    "constant": lambda t, path: 1.0,
    "sbdm": lambda t, path: _at(path.diffusion, t) if _at(path.alpha, t) > 0 else math.inf,
    "sigma": lambda t, path: _at(path.sigma, t),
    "linear": lambda t, path: 1 - t,
    "decreasing": lambda t, path: ((1 + math.cos(math.pi * t)) / 2) ** 2,
    "increasing_decreasing": lambda t, path: math.sin(math.pi * t) ** 2,
}
"""w(t) before `diffusion_norm`, in the forms of SiT; "sbdm" is the reverse of the forward SDE."""


class EulerMaruyama:
    """Euler-Maruyama solver with `steps` evaluations, the last of which draws no noise.

    A step h removes the fraction w h / sigma^2 of the noise. Above 1 the step would be unstable;
    "sbdm" exceeds it near alpha = 0, where w is unbounded, and a large `diffusion_norm` can exceed
    it anywhere. There w is limited to sigma^2 / h, which does not change the marginals, and the
    noise is updated exactly: a fraction exp(-1) of it is kept.

    Args:
        steps: number of evaluations.
        diffusion, diffusion_norm: w(t) is `diffusion_norm` times the entry of DIFFUSIONS.
        last_step: the last step, without noise: "mean" (drift of the SDE, as in SiT), "tweedie"
            (prediction of the data), "euler" (velocity of the flow), or "none": all steps draw
            noise, up to the end of the path.
        last_step_size: flow time that the last step covers. Its error shrinks with this size, not
            with more steps.
        time_grid, time_shift, times: as in `TimeGrid`, for all steps before the last step.
        cache_interval: evaluate the model at every n-th step only, see `reuse`.

    Raises:
        RequestError: an option is invalid or conflicts with another.
    """

    def __init__(
        self,
        *,
        steps: int = 250,
        diffusion: str = "sigma",
        diffusion_norm: float = 1.0,
        last_step: str = "mean",
        last_step_size: float = 0.04,
        time_grid: str = "uniform",
        time_shift: float = 1.0,
        times: Sequence[float] | None = None,
        cache_interval: int = 1,
    ) -> None:
        for option, value, allowed in (
            ("diffusion", diffusion, tuple(DIFFUSIONS)),
            ("last_step", last_step, LAST_STEPS),
        ):
            if value not in allowed:
                raise RequestError(f"{option}: unknown {value!r}; use {', '.join(allowed)}")
        if diffusion_norm < 0 or not 0 < last_step_size < 1:
            raise RequestError(
                f"diffusion_norm={diffusion_norm:g}, last_step_size={last_step_size:g}: expected "
                "at least 0, and a stretch of flow time between 0 and 1"
            )
        self.steps, self.cache_interval = steps, cache_interval
        self.diffusion, self.diffusion_norm = diffusion, diffusion_norm
        self.last_step, self.last_step_size = last_step, last_step_size
        self.grid = TimeGrid(
            steps=noisy_steps(steps, last_step),
            time_grid=time_grid,
            time_shift=time_shift,
            times=times,
        )

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
        """Map noise (N, C, H, W) to data (N, C, H, W); see `types.Sampler`."""
        predict = evaluate_every(self.cache_interval, predict, interpolant)
        times = self.grid.over(*self._span(interpolant))
        x = noise
        for step in range(self.grid.steps):
            t, h = times[step], times[step + 1] - times[step]
            rate, prediction = self._rate(t, interpolant), predict(x, t)
            if rate <= (1 + ROUNDING) * _limit(t, h, interpolant):
                drift = self._drift(prediction, t, rate, interpolant)
                x = x + h * drift + math.sqrt(2 * rate * h) * draw_noise(step)
            else:
                velocity = self._drift(prediction, t, 0.0, interpolant)
                renewed = KEPT * prediction.noise + math.sqrt(1 - KEPT**2) * draw_noise(step)
                sigma = _at(interpolant.sigma, times[step + 1])
                x = x + h * velocity + sigma * (renewed - prediction.noise)
            if on_step is not None:
                on_step(step)
        return x if self.last_step == "none" else self._end(predict, x, times[-1], interpolant)

    def _span(self, interpolant: Interpolant) -> tuple[float, float]:
        low, high = interpolant.t_min, interpolant.t_max
        return low, high if self.last_step == "none" else high - self.last_step_size

    def _rate(self, t: float, interpolant: Interpolant) -> float:
        """Return w(t), which may be infinite."""
        if self.diffusion_norm == 0:
            return 0.0
        return self.diffusion_norm * DIFFUSIONS[self.diffusion](t, interpolant)

    def _drift(
        self, prediction: Prediction, t: float, rate: float, interpolant: Interpolant
    ) -> Tensor:
        velocity = interpolant.velocity(prediction.data, prediction.noise, t)
        return velocity + rate * interpolant.target("score", prediction.data, prediction.noise, t)

    def _end(self, predict: Predict, x: Tensor, t: float, interpolant: Interpolant) -> Tensor:
        """Make the last step, without noise."""
        prediction = predict(x, t)
        if self.last_step == "tweedie":
            return prediction.data
        h, rate = interpolant.t_max - t, 0.0
        if self.last_step == "mean":
            rate = min(self._rate(t, interpolant), _limit(t, h, interpolant))
        return x + h * self._drift(prediction, t, rate, interpolant)


def _limit(t: float, h: float, interpolant: Interpolant) -> float:
    """Return the w(t) that removes all noise in a step h."""
    return _at(interpolant.sigma, t) ** 2 / h
