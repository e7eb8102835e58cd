"""DPM-Solver++ and UniPC against their papers' formulas, written here in float64.

The formulas use x with the path's alpha and sigma; the lab divides x by sqrt(alpha^2 + sigma^2) and
uses diffusers. lambda is log(alpha / sigma), half the log-SNR.
"""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from dit_lab.core.discrete_diffusion import DiscreteDiffusion, linear_betas, make_betas
from dit_lab.core.interpolants import Interpolant, Linear, Trigonometric, VariancePreserving
from dit_lab.core.types import Predict
from dit_lab.samplers.multistep import DPMSolver, Multistep, UniPC, reach
from tests.mixture import normal, shares, three_spots

CHAIN = DiscreteDiffusion(linear_betas())
ZERO_SNR = DiscreteDiffusion(make_betas("linear", 1000, zero_terminal_snr=True))
PATHS: list[Interpolant] = [Linear(), Linear(1e-2), Trigonometric(), VariancePreserving(), CHAIN]
SPOTS = three_spots()
NOISE = normal(64, (1, 1, 2), seed=0)
GRIDS = ("log_snr", "uniform")


def draw(step: int) -> Tensor:
    return normal(64, (1, 1, 2), seed=100 + step)


class Levels:
    """alpha, sigma and lambda at each time, and data alone after the last."""

    def __init__(self, path: Interpolant, times: list[float]) -> None:
        pairs = [*(shares(path, t) for t in times), (1.0, 0.0)]
        self.alpha, self.sigma = ([pair[i] for pair in pairs] for i in (0, 1))
        self.half_log_snr = [math.log(a / s) if s > 0 else math.inf for a, s in pairs]

    def rise(self, step: int) -> float:
        """h of a step: lambda at its end minus lambda at its start."""
        return self.half_log_snr[step + 1] - self.half_log_snr[step]


def begun(predict: Predict, path: Interpolant, times: list[float]) -> tuple[Tensor, int]:
    """x and how many steps it took: where x is noise alone, lambda has no bound, and the first step
    is the limit of the formulas, along the noise to the prediction of data."""
    if shares(path, times[0])[0] > 0:
        return NOISE, 0
    data = predict(NOISE, times[0]).data
    alpha, sigma = shares(path, times[1]) if len(times) > 1 else (1.0, 0.0)
    return alpha * data + sigma * NOISE, 1


def dpm_solver(predict: Predict, path: Interpolant, times: list[float], *, sde: bool) -> Tensor:
    """Lu et al. 2022, algorithm 2 and appendix E; the first and the last step of first order."""
    x, done = begun(predict, path, times)
    times = times[done:]
    levels, before = Levels(path, times), None
    for step, t in enumerate(times):
        data, h = predict(x, t).data, levels.rise(step)
        guess = data
        if before is not None and step < len(times) - 1:
            r = levels.rise(step - 1) / h
            guess = (1 + 1 / (2 * r)) * data - before / (2 * r)
        before = data
        ratio = levels.sigma[step + 1] / levels.sigma[step]
        decay = math.exp(-h)
        if sde:
            x = ratio * decay * x - levels.alpha[step + 1] * math.expm1(-2 * h) * guess
            x = x + levels.sigma[step + 1] * math.sqrt(-math.expm1(-2 * h)) * draw(done + step)
        else:
            x = ratio * x - levels.alpha[step + 1] * (decay - 1) * guess
    return x


def unipc(predict: Predict, path: Interpolant, times: list[float]) -> Tensor:
    """Zhao et al. 2023, algorithms 5 to 8 with p = 2 and B2(h) = e^h - 1, h standing for -h.

    At every time but the first the step that led there is made again with what was predicted there:
    UniC-1 for the first step, UniC-2 after that. The predictor UniP-2 has the weight 1/2.
    """
    x, done = begun(predict, path, times)
    times = times[done:]
    levels = Levels(path, times)
    here: Tensor | None = None  # the prediction of data at the start of the last step
    before: Tensor | None = None  # and at the step's before that
    start = x  # where the last step started
    for step, t in enumerate(times):
        data = predict(x, t).data
        if here is not None:
            x = _corrected(levels, step - 1, start, here, before, data)
        before, here, start = here, data, x
        x = _first_order(levels, step, x, data)
        if before is not None and step < len(times) - 1:
            r = -levels.rise(step - 1) / levels.rise(step)
            scale = levels.alpha[step + 1] * math.expm1(-levels.rise(step))
            x = x - scale * 0.5 * (before - data) / r
    return x


def _first_order(levels: Levels, step: int, x: Tensor, data: Tensor) -> Tensor:
    ratio = levels.sigma[step + 1] / levels.sigma[step]
    return ratio * x - levels.alpha[step + 1] * math.expm1(-levels.rise(step)) * data


def _corrected(
    levels: Levels, step: int, x: Tensor, data: Tensor, before: Tensor | None, after: Tensor
) -> Tensor:
    h = -levels.rise(step)
    growth = math.expm1(h)
    if before is None:
        residue = 0.5 * (after - data)
    else:
        r = -levels.rise(step - 1) / levels.rise(step)
        phi_2 = growth / h - 1  # h phi_2(h)
        phi_3 = phi_2 / h - 0.5  # h phi_3(h)
        matrix = torch.tensor([[1.0, 1.0], [r, 1.0]], dtype=torch.float64)
        moments = torch.tensor([phi_2, 2 * phi_3], dtype=torch.float64) / growth
        old, new = torch.linalg.solve(matrix, moments).tolist()
        residue = old * (before - data) / r + new * (after - data)
    scale = levels.alpha[step + 1] * growth
    return _first_order(levels, step, x, data) - scale * residue


def ours(sampler: Multistep, path: Interpolant) -> Tensor:
    return sampler.sample(SPOTS.predictor(path), NOISE, interpolant=path, draw_noise=draw)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("time_grid", GRIDS)
@pytest.mark.parametrize("solver", ["ode", "sde"])
@pytest.mark.parametrize("steps", [1, 2, 3, 20])
def test_dpm_solver_is_the_papers(
    steps: int, solver: str, time_grid: str, path: Interpolant
) -> None:
    """Within 2e-5: diffusers rounds x (of size 3, to 2e-7) to float32 at every one of up to 20
    steps, and the noise of the SDE with it; between the components the flow pulls neighbours apart
    by a factor of ten or so."""
    sampler = DPMSolver(steps=steps, solver=solver, time_grid=time_grid)
    theirs = dpm_solver(SPOTS.predictor(path), path, sampler.times(path), sde=solver == "sde")
    torch.testing.assert_close(ours(sampler, path), theirs, rtol=0, atol=2e-5)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("time_grid", GRIDS)
@pytest.mark.parametrize("steps", [1, 2, 3, 20])
def test_unipc_is_the_papers(steps: int, time_grid: str, path: Interpolant) -> None:
    """Within 1e-9: its scheduler stays in float64."""
    sampler = UniPC(steps=steps, time_grid=time_grid)
    theirs = unipc(SPOTS.predictor(path), path, sampler.times(path))
    torch.testing.assert_close(ours(sampler, path), theirs, rtol=0, atol=1e-9)


@pytest.mark.parametrize("path", [*PATHS, ZERO_SNR])
@pytest.mark.parametrize("steps", [2, 9, 200])
def test_times_are_equal_steps_of_log_snr(steps: int, path: Interpolant) -> None:
    """Over the path's span within reach; one more before them where the path starts further out."""
    times = DPMSolver(steps=steps).times(path)
    assert len(times) == steps and times[0] == path.t_min and times[-1] <= path.t_max
    ends = path.log_snr(torch.tensor([path.t_min, path.t_max], dtype=torch.float64))
    low, high = ends.clamp(*reach(steps)).tolist()
    inside = [t for t in times if t > path.t_min] if ends[0] < low else times
    found = path.log_snr(torch.tensor(inside, dtype=torch.float64))
    expected = torch.linspace(low, high, len(inside), dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


def test_more_steps_reach_further_up_to_a_thousandfold() -> None:
    spans = [reach(steps) for steps in (1, 5, 20, 100, 1000)]
    assert all(a[0] >= b[0] and a[1] <= b[1] for a, b in pairwise(spans))
    assert spans[-1] == spans[-2] == pytest.approx((-2 * math.log(1e3), 2 * math.log(1e3)))


@pytest.mark.parametrize("kind", [DPMSolver, UniPC])
def test_one_step_is_the_prediction_of_data(kind: type[Multistep]) -> None:
    sampler = kind(steps=1)
    (t,) = sampler.times(Linear())
    expected = SPOTS.predictor(Linear())(NOISE, t).data
    torch.testing.assert_close(ours(sampler, Linear()), expected, rtol=0, atol=1e-6)
