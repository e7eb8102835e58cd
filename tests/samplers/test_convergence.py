"""Convergence order of deterministic samplers, on data with a known exact flow.

Everything is float64 with ideal predictions, so the remaining error is the solver's.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dit_lab.core.discrete_diffusion import DiscreteDiffusion, linear_betas
from dit_lab.core.errors import RequestError
from dit_lab.core.interpolants import (
    PREDICTIONS,
    Interpolant,
    Linear,
    Trigonometric,
    VariancePreserving,
)
from dit_lab.core.types import Predict, Prediction
from dit_lab.samplers.adaptive import Dopri5
from dit_lab.samplers.ancestral import DDIMSampler
from dit_lab.samplers.multistep import DPMSolver, UniPC
from dit_lab.samplers.ode import RK4, Euler, Heun, Midpoint
from dit_lab.samplers.sde import EulerMaruyama
from tests.mixture import Mixture, gaussian, normal, shares, three_spots

STEPS = (64, 128, 256, 512)
FIXED_REACH = (100, 200, 400)  # steps over which the grid of multistep solvers reaches as far
LINEAR, TRIGONOMETRIC, VP = Linear(), Trigonometric(), VariancePreserving()
SPOTS, PLAIN = three_spots(), gaussian()
PROBLEMS: list[tuple[Mixture, Interpolant]] = [
    (SPOTS, LINEAR),
    (SPOTS, TRIGONOMETRIC),
    (PLAIN, VP),  # ends with noise left, and the prediction of data
]
NOISE = normal(32, (1, 1, 2), seed=0)


def no_draw(step: int) -> Tensor:
    raise AssertionError("a deterministic sampler drew noise")


def run(sampler: Any, predict: Predict, path: Interpolant) -> Tensor:
    return sampler.sample(predict, NOISE, interpolant=path, draw_noise=no_draw)


@cache
def carried(mixture: Mixture, path: Interpolant, start: float, end: float) -> Tensor:
    """Where the exact flow takes NOISE, with the prediction of data where noise is left."""
    x = mixture.flow(NOISE, path, start, end)
    return mixture.predictor(path)(x, end).data if shares(path, end)[1] > 0 else x


def rms(gap: Tensor) -> float:
    return gap.square().mean().sqrt().item()


def slope(errors: list[float], steps: tuple[int, ...] = STEPS) -> float:
    """Least squares of log error on log steps, as a positive order."""
    return -np.polyfit(np.log(steps), np.log(errors), 1)[0]


@cache
def single_step_slope(kind: Callable[..., Any], mixture: Mixture, path: Interpolant) -> float:
    exact = carried(mixture, path, path.t_min, path.t_max)
    predict = mixture.predictor(path)
    return slope([rms(run(kind(steps=n), predict, path) - exact) for n in STEPS])


@cache
def multistep_slope(
    kind: Callable[..., Any],
    mixture: Mixture,
    path: Interpolant,
    time_grid: str,
    steps: tuple[int, ...] = STEPS,
) -> float:
    """Against the flow over the solver's own span.

    In equal steps of log-SNR that is from its first time to its last, and the prediction of data
    there; in equal steps of time it is up to where no noise is left.
    """
    errors = []
    for n in steps:
        sampler = kind(steps=n, time_grid=time_grid)
        times = sampler.times(path)
        end = times[-1] if time_grid == "log_snr" else path.t_max
        exact = carried(mixture, path, times[0], end)
        errors.append(rms(run(sampler, mixture.predictor(path), path) - exact))
    return slope(errors, steps)


@pytest.mark.parametrize(
    ("kind", "order", "problems"),
    [
        (Euler, 1, PROBLEMS),
        (DDIMSampler, 1, PROBLEMS[::2]),
        (Midpoint, 2, PROBLEMS),
        (Heun, 2, PROBLEMS),
        (RK4, 4, PROBLEMS[:2]),
    ],
)
def test_error_falls_with_the_order(
    kind: Callable[..., Any], order: int, problems: list[tuple[Mixture, Interpolant]]
) -> None:
    """The slope over 64 to 512 steps, within 0.15: the next order's term bends it by less."""
    for mixture, path in problems:
        assert single_step_slope(kind, mixture, path) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize(("mixture", "path"), PROBLEMS[::2])
@pytest.mark.parametrize(
    ("kind", "order", "steps"),
    [(DPMSolver, 2, STEPS), (DPMSolver, 2, FIXED_REACH), (UniPC, 3, FIXED_REACH)],
)
def test_multistep_order_on_equal_steps_of_log_snr(
    kind: Callable[..., Any],
    order: int,
    steps: tuple[int, ...],
    mixture: Mixture,
    path: Interpolant,
) -> None:
    """UniPC's corrector adds one order to its predictor's second (Zhao et al. 2023, theorem 3.1).

    Up to 100 steps the grid grows with the steps, which costs 0.1 of the order. DPM-Solver rounds x
    to float32 at every step, which adds some 1e-8; its error at 512 steps, 1e-5 at the least, is
    far above that.
    """
    found = multistep_slope(kind, mixture, path, "log_snr", steps)
    assert found == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("path", [LINEAR, TRIGONOMETRIC])
def test_multistep_order_is_lost_on_equal_steps_of_time(path: Interpolant) -> None:
    """Near data equal steps of time are ever longer ones of log-SNR, the last without end: at
    least 0.2 of the order is gone."""
    even = multistep_slope(DPMSolver, SPOTS, path, "log_snr")
    uniform = multistep_slope(DPMSolver, SPOTS, path, "uniform")
    assert 1 < uniform < even - 0.2


@pytest.mark.parametrize(("mixture", "path"), [(SPOTS, LINEAR), (SPOTS, TRIGONOMETRIC)])
@pytest.mark.parametrize("tolerance", [1e-4, 1e-6, 1e-9])
def test_dopri5_arrives_within_its_tolerance(
    mixture: Mixture, path: Interpolant, tolerance: float
) -> None:
    """The tolerance bounds one step's error; 30 of them allow for all steps and for what the
    flow makes of early ones."""
    out = run(Dopri5(rtol=tolerance, atol=tolerance), mixture.predictor(path), path)
    assert rms(out - carried(mixture, path, path.t_min, path.t_max)) < 30 * tolerance


@pytest.mark.parametrize("path", [LINEAR, Linear(1e-2), TRIGONOMETRIC])
def test_dopri5_asks_six_times_a_step(path: Interpolant) -> None:
    """And twice at the start, to choose the first step, and once at the end where noise is left;
    steps that were not good enough are asked for but not reported."""
    asked: list[float] = []
    accepted: list[int] = []
    predict = SPOTS.predictor(path)

    def counted(x: Tensor, t: float) -> Prediction:
        asked.append(t)
        return predict(x, t)

    Dopri5().sample(counted, NOISE, interpolant=path, draw_noise=no_draw, on_step=accepted.append)
    tried, rest = divmod(len(asked) - 2 - (path.final_sigma() > 0), 6)
    assert rest == 0 and tried >= len(accepted) > 0
    assert accepted == list(range(len(accepted)))


@pytest.mark.parametrize(("mixture", "path"), [*PROBLEMS, (PLAIN, LINEAR)])
def test_dopri5_stays_on_the_path(mixture: Mixture, path: Interpolant) -> None:
    """Past its end a path says nothing: sigma is negative or not a number."""
    asked: list[float] = []

    def noted(x: Tensor, t: float) -> Prediction:
        asked.append(t)
        return mixture.predictor(path)(x, t)

    out = run(Dopri5(rtol=1e-6, atol=1e-6), noted, path)
    assert path.t_min <= min(asked) and max(asked) <= path.t_max
    assert rms(out - carried(mixture, path, path.t_min, path.t_max)) < 30e-6


def test_dopri5_asks_more_often_for_a_smaller_tolerance() -> None:
    counts = []
    for tolerance in (1e-3, 1e-5, 1e-7):
        asked: list[float] = []

        def predict(x: Tensor, t: float, asked: list[float] = asked) -> Prediction:
            asked.append(t)
            return SPOTS.predictor(LINEAR)(x, t)

        run(Dopri5(rtol=tolerance, atol=tolerance), predict, LINEAR)
        counts.append(len(asked))
    assert counts == sorted(set(counts))
    with pytest.raises(RequestError, match="rtol=0, atol=1e-05: both must be above 0"):
        Dopri5(rtol=0)


# What is the same


@pytest.mark.parametrize(
    "path",
    [
        Linear(t_min=1e-3),
        Linear(1e-2, t_min=1e-3),
        Trigonometric(t_min=1e-3),
        VP,
        DiscreteDiffusion(linear_betas()),
    ],
)
def test_ddim_is_eulers_method_in_units_of_the_data(path: Interpolant) -> None:
    """Divided by alpha, x moves along the noise at the rate of sigma / alpha: Song et al. 2020,
    section 4.3. The rounding of a division by alpha, 1e-3 at the least, is allowed for."""
    asked: list[float] = []
    predict = SPOTS.predictor(path)

    def noted(x: Tensor, t: float) -> Prediction:
        asked.append(t)
        return predict(x, t)

    ours = run(DDIMSampler(steps=50, spacing="even"), noted, path)
    alphas, sigmas = zip(*(shares(path, t) for t in asked), strict=True)
    levels = [sigma / alpha for alpha, sigma in zip(alphas, sigmas, strict=True)] + [0.0]
    x = NOISE / alphas[0]
    for step, t in enumerate(asked):
        x = x + (levels[step + 1] - levels[step]) * predict(alphas[step] * x, t).noise
    torch.testing.assert_close(ours, x, rtol=0, atol=1e-10)


@pytest.mark.parametrize("steps", [1, 10, 64])
def test_ddim_is_eulers_method_on_straight_paths(steps: int) -> None:
    """Up to the last digits of float64: the two sum the same terms in another order."""
    predict = SPOTS.predictor(LINEAR)
    ddim, euler = (run(kind(steps=steps), predict, LINEAR) for kind in (DDIMSampler, Euler))
    torch.testing.assert_close(ddim, euler, rtol=0, atol=1e-13)


SAMPLERS: list[tuple[Any, float]] = [
    (Euler(steps=10), 1e-10),
    (Heun(steps=10), 1e-10),
    (RK4(steps=10), 1e-10),
    (DDIMSampler(steps=10, spacing="even"), 1e-10),
    (DDIMSampler(steps=10, spacing="even", eta=0.7), 1e-10),
    (EulerMaruyama(steps=10), 1e-10),
    (UniPC(steps=10), 1e-10),
    (DPMSolver(steps=10), 1e-6),  # rounds x to float32 at every step
]


@pytest.mark.parametrize(("sampler", "tolerance"), SAMPLERS)
@pytest.mark.parametrize(
    "path",
    [
        Linear(t_min=1e-3, t_max=1 - 1e-3),
        Trigonometric(t_min=1e-3, t_max=1 - 1e-3),
        DiscreteDiffusion(linear_betas()),
    ],
)
def test_every_parametrisation_leads_to_the_same_images(
    path: Interpolant, sampler: Any, tolerance: float
) -> None:
    """An ideal output of any kind, read back into both ends; float64's rounding over 1e-3 and
    10 steps is below the tolerance."""
    ideal = SPOTS.predictor(path)

    def reading(kind: str) -> Predict:
        def predict(x: Tensor, t: float) -> Prediction:
            exact = ideal(x, t)
            output = path.target(kind, exact.data, exact.noise, t)
            data, noise = path.ends(kind, output, x, t)
            return Prediction(data=data, noise=noise)

        return predict

    def draw(step: int) -> Tensor:
        return normal(32, (1, 1, 2), seed=1 + step)

    expected = sampler.sample(ideal, NOISE, interpolant=path, draw_noise=draw)
    for kind in PREDICTIONS:
        out = sampler.sample(reading(kind), NOISE, interpolant=path, draw_noise=draw)
        torch.testing.assert_close(out, expected, rtol=0, atol=tolerance)
