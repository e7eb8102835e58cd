"""SDE sampling: follow the flow, and forget and renew some noise on the way.

dx = (velocity + w(t) * score) dt + sqrt(2 w(t)) dW has the flow's marginals for every w >= 0 (Ma et
al. 2024, SiT, eq. 6; Albergo et al. 2023): noise is added at the rate at which the score takes it
away. More of it forgets more of a model's errors, and needs more steps.

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
from dit_lab.samplers.reuse import asked_every

Diffusion = Callable[[float, Interpolant], float]

ROUNDING = 1e-9  # of a rate that is its limit, as that of "sigma" before its last step is

KEPT = math.exp(-1)

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
"""w(t) before `diffusion_norm`: the forms of SiT; "sbdm" is the reverse of the forward SDE."""


class EulerMaruyama:
    """Euler-Maruyama in `steps` evaluations, the last of which draws no noise.

    A step h takes w h / sigma^2 of the noise away. Above 1 it would take more than there is, and
    grow: `sbdm` does so where data has no share and w no bound, a large `diffusion_norm` anywhere.
    There w is limited to sigma^2 / h, since every w has the flow's marginals, and the step is the
    exact one of noise alone, of which exp(-1) stays.

    diffusion, diffusion_norm: w(t) is the norm times one of DIFFUSIONS.
    last_step, last_step_size: over the last stretch of flow time, "mean" (the drift of the SDE,
        SiT's choice), "tweedie" (the prediction of data), "euler" (the flow's velocity), or "none":
        all steps draw noise, up to the end. More steps do not help against what one step over that
        stretch leaves out; a shorter one does.
    time_grid, time_shift, times: see `TimeGrid`; the last step goes from there to the end.
    cache_interval: above 1 the model is asked less often, see `reuse`.
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
        """noise (N, C, H, W) -> data (N, C, H, W); see `types.Sampler`."""
        predict = asked_every(self.cache_interval, predict, interpolant)
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
        """w(t), which may be infinite."""
        if self.diffusion_norm == 0:
            return 0.0
        return self.diffusion_norm * DIFFUSIONS[self.diffusion](t, interpolant)

    def _drift(
        self, prediction: Prediction, t: float, rate: float, interpolant: Interpolant
    ) -> Tensor:
        velocity = interpolant.velocity(prediction.data, prediction.noise, t)
        return velocity + rate * interpolant.target("score", prediction.data, prediction.noise, t)

    def _end(self, predict: Predict, x: Tensor, t: float, interpolant: Interpolant) -> Tensor:
        """The last step, without noise."""
        prediction = predict(x, t)
        if self.last_step == "tweedie":
            return prediction.data
        h, rate = interpolant.t_max - t, 0.0
        if self.last_step == "mean":
            rate = min(self._rate(t, interpolant), _limit(t, h, interpolant))
        return x + h * self._drift(prediction, t, rate, interpolant)


def _limit(t: float, h: float, interpolant: Interpolant) -> float:
    """The w(t) that takes all of the noise away in a step h."""
    return _at(interpolant.sigma, t) ** 2 / h
