"""Multistep samplers: DPM-Solver++ (2M) and UniPC, by diffusers' schedulers on our own time grids.

Both integrate the prediction of data over half the log-SNR and reuse the predictions of earlier
steps, so that one evaluation per step gives second order. Their formulas assume a
variance-preserving path. Dividing x by sqrt(alpha^2 + sigma^2) turns any path into one with the
same log-SNR, so that they also sample flows.

Shapes: N images, C channels, H x W pixels or latent cells.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from dit_lab.core.interpolants import Interpolant
from dit_lab.core.types import DrawNoise, Predict
from dit_lab.samplers.grid import RULES, TimeGrid, check_grid

LOG_SNR = "log_snr"
MOST_LOG_SNR = 2 * math.log(1e3)


def reach(steps: int) -> tuple[float, float]:
    """Return the lowest and highest log-SNR of a grid with equal steps in log-SNR.

    One step covers the time before it, where x is almost only noise, and the last prediction of
    data covers the time after it. The range widens with the number of steps, at most to alpha /
    sigma in [1/1000, 1000], so that the omitted ends shrink with the rest of the error.
    """
    noise, data = (2 * math.log(share) for share in (steps**1.5, 3 * steps**1.5))
    return -min(noise, MOST_LOG_SNR), min(data, MOST_LOG_SNR)


class Multistep(ABC):
    """Base class of the multistep samplers: `steps` evaluations, the last of which ends in data.

    Args:
        steps: number of evaluations of the model.
        time_grid: "log_snr" for equal steps in log-SNR, on which the order of convergence holds, or
            a rule of `TimeGrid`. The end of the path is evaluated only if noise is left there.
        time_shift: as in `TimeGrid`.
        times: as in `TimeGrid`, but as many as `steps`.

    Raises:
        RequestError: an option is invalid or conflicts with another.
    """

    def __init__(
        self,
        *,
        steps: int = 20,
        time_grid: str = "log_snr",
        time_shift: float = 1.0,
        times: Sequence[float] | None = None,
    ) -> None:
        options: dict[str, Any] = {
            "time_grid": time_grid,
            "time_shift": time_shift,
            "times": times,
        }
        check_grid(steps=steps, **options, rules=(LOG_SNR, *RULES), after=1)
        self.steps = steps
        self._rule = time_grid
        self._options = options

    @abstractmethod
    def scheduler(self) -> Any:
        """Return a new diffusers scheduler that expects predictions of data."""

    def times(self, interpolant: Interpolant) -> list[float]:
        """Return the `steps` flow times at which the model is evaluated."""
        if self._rule != LOG_SNR:
            return self._times_of_grid(interpolant)
        span = _time_at_log_snr(interpolant, torch.tensor(reach(self.steps), dtype=torch.float64))
        low, high = interpolant.log_snr(span).tolist()
        starts_before = self.steps > 1 and span[0].item() > interpolant.t_min
        asked = torch.linspace(low, high, self.steps - starts_before, dtype=torch.float64)
        times = _time_at_log_snr(interpolant, asked).tolist()
        return [interpolant.t_min, *times] if starts_before else times

    def _times_of_grid(self, interpolant: Interpolant) -> list[float]:
        low, high = interpolant.t_min, interpolant.t_max
        if self._options["times"] is not None:  # limited to where noise is left
            most = torch.tensor(MOST_LOG_SNR, dtype=torch.float64)
            end = _time_at_log_snr(interpolant, most).item()
            return [min(max(t, low), end) for t in self._options["times"]]
        asked_last = interpolant.final_sigma() > 0
        if asked_last and self.steps == 1:
            return [low]
        times = TimeGrid(steps=self.steps - asked_last, **self._options).over(low, high)
        return times if asked_last else times[:-1]

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
        times = self.times(interpolant)
        x, done = noise, 0
        if interpolant.shares(times[0], x).alpha == 0:  # log-SNR is -inf
            x, done = self._step_from_noise(predict, x, times, interpolant), 1
            if on_step is not None:
                on_step(0)
        if done == len(times):
            return x
        at = torch.tensor(times[done:], dtype=torch.float64)
        alpha, sigma = interpolant.alpha(at), interpolant.sigma(at)
        sizes = (alpha.square() + sigma.square()).sqrt().tolist()
        scheduler = self.scheduler()
        # Replace the scheduler's times: sigma / alpha at each time, and 0 after the last.
        scheduler.sigmas = torch.cat([sigma / alpha, torch.zeros(1, dtype=torch.float64)])
        scheduler.timesteps = torch.arange(len(at))
        scheduler.num_inference_steps = len(at)
        scheduler.set_begin_index(0)
        x = x / sizes[0]
        for step, (t, size) in enumerate(zip(at.tolist(), sizes, strict=True)):
            data = predict(size * x, t).data
            noise_of_step = self.noise_of(done + step, draw_noise)
            x = scheduler.step(data, step, x, return_dict=False, **noise_of_step)[0]
            if on_step is not None:
                on_step(done + step)
        return x

    def _step_from_noise(
        self, predict: Predict, noise: Tensor, times: Sequence[float], interpolant: Interpolant
    ) -> Tensor:
        """Make the first step from pure noise, to the second time or, if there is none, to data."""
        data = predict(noise, times[0]).data
        return interpolant.interpolate(data, noise, times[1]) if len(times) > 1 else data

    def noise_of(self, step: int, draw_noise: DrawNoise) -> dict[str, Tensor]:
        """Return the noise arguments of the scheduler's step; none for deterministic solvers."""
        return {}


class DPMSolver(Multistep):
    """DPM-Solver++ (2M) (Lu et al. 2022, algorithm 2), and its SDE variant.

    Args:
        solver: "ode", or "sde", which draws noise at every step.
        steps, time_grid, time_shift, times: as in `Multistep`.
    """

    def __init__(
        self,
        *,
        steps: int = 20,
        solver: str = "ode",
        time_grid: str = "log_snr",
        time_shift: float = 1.0,
        times: Sequence[float] | None = None,
    ) -> None:
        super().__init__(steps=steps, time_grid=time_grid, time_shift=time_shift, times=times)
        self.solver = solver

    def scheduler(self) -> Any:
        from diffusers import DPMSolverMultistepScheduler

        return DPMSolverMultistepScheduler(
            algorithm_type="sde-dpmsolver++" if self.solver == "sde" else "dpmsolver++",
            solver_order=2,
            prediction_type="sample",
        )

    def noise_of(self, step: int, draw_noise: DrawNoise) -> dict[str, Tensor]:
        return {"variance_noise": draw_noise(step)} if self.solver == "sde" else {}


class UniPC(Multistep):
    """UniPC-2 with B2(h) (Zhao et al. 2023).

    A second-order predictor whose steps are each corrected with the next prediction, which gives
    third order on a grid that is uniform in log-SNR.
    """

    def scheduler(self) -> Any:
        from diffusers import UniPCMultistepScheduler

        return UniPCMultistepScheduler(solver_order=2, prediction_type="sample")


def _time_at_log_snr(interpolant: Interpolant, log_snr: Tensor) -> Tensor:
    """Return the flow times of these log-SNRs, by bisection; clamped to the ends of the path."""
    low = torch.full_like(log_snr, interpolant.t_min)
    high = torch.full_like(log_snr, interpolant.t_max)
    above = interpolant.log_snr(low) >= log_snr
    below = interpolant.log_snr(high) <= log_snr
    left, right = low, high
    for _ in range(60):  # until float64 is exhausted
        middle = (left + right) / 2
        under = interpolant.log_snr(middle) < log_snr
        left, right = torch.where(under, middle, left), torch.where(under, right, middle)
    found = torch.where(above, low, (left + right) / 2)
    return torch.where(below, high, found)
