"""Time grids of fixed-step solvers: spacing, ends, and refusals."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from dit_lab.core.errors import RequestError
from dit_lab.core.interpolants import Linear, Trigonometric, shift_time
from dit_lab.core.types import Prediction
from dit_lab.samplers.grid import TimeGrid
from dit_lab.samplers.multistep import DPMSolver, UniPC
from dit_lab.samplers.ode import RK4, Euler, Heun, Midpoint
from dit_lab.samplers.sde import EulerMaruyama
from tests.mixture import normal, three_spots

SPANS = [(0.0, 1.0), (0.001, 0.999), (0.1, 0.7)]
RULES: list[dict[str, Any]] = [
    {"time_grid": "uniform"},
    {"time_grid": "quadratic"},
    {"time_grid": "shifted", "time_shift": 3.0},
    {"time_grid": "shifted", "time_shift": 0.3},
]
GIVEN = {"time_grid": "given", "times": [0.1, 0.2, 0.55, 0.7]}


def draw(step: int) -> Tensor:
    return normal(8, (1, 1, 2), seed=1 + step)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("low", "high"), SPANS)
@pytest.mark.parametrize("steps", [1, 2, 7, 100])
def test_grid_rises_from_end_to_end_exactly(
    steps: int, low: float, high: float, rule: dict[str, Any]
) -> None:
    times = TimeGrid(steps=steps, **rule).over(low, high)
    assert len(times) == steps + 1
    assert times[0] == low and times[-1] == high
    assert all(a < b for a, b in pairwise(times))


@pytest.mark.parametrize(("low", "high"), SPANS)
def test_rules_have_their_spacing(low: float, high: float) -> None:
    """As shares of the way: uniform k / n; quadratic leaves (1 - k / n)^2 of the noise; shifted is
    `shift_time`, Esser et al. 2024, eq. 23."""
    even = torch.arange(13, dtype=torch.float64) / 12
    for rule, expected in (
        (RULES[0], even),
        (RULES[1], 1 - (1 - even) ** 2),
        (RULES[2], shift_time(even, 3.0)),
        (RULES[3], shift_time(even, 0.3)),
    ):
        times = torch.tensor(TimeGrid(steps=12, **rule).over(low, high), dtype=torch.float64)
        torch.testing.assert_close((times - low) / (high - low), expected, rtol=0, atol=1e-14)


def test_shift_moves_towards_noise_above_one_and_towards_data_below() -> None:
    middle = [TimeGrid(steps=2, **rule).over(0, 1)[1] for rule in RULES]
    assert middle == [0.5, 0.75, pytest.approx(0.25), pytest.approx(1 / 1.3)]


def test_given_times_are_used_as_they_are_and_stop_at_the_ends() -> None:
    assert TimeGrid(steps=3, **GIVEN).over(0.1, 0.7) == GIVEN["times"]
    assert TimeGrid(steps=3, **GIVEN).over(0.0, 1.0) == GIVEN["times"]
    first, *_, last = TimeGrid(steps=3, **GIVEN).over(0.15, 0.65)
    assert (first, last) == (0.15, 0.65)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, r"steps: 0 is not at least 1"),
        ({"time_grid": "cubic"}, r"time_grid: unknown 'cubic'; use uniform, quadratic, shifted, g"),
        ({"time_shift": 2.0}, r"time_shift=2: expected a number above 0, and time_grid=shifted"),
        ({"time_grid": "shifted", "time_shift": 0.0}, r"time_shift=0: expected a number above 0"),
        ({"time_grid": "shifted", "time_shift": -1.0}, r"time_shift=-1: expected a number above"),
        ({"time_grid": "given"}, r"time_grid=given: give times with time_grid=given, and only"),
        ({"times": [0, 1]}, r"time_grid=uniform: give times with time_grid=given, and only"),
        ({"time_grid": "given", "times": [0, 0.5, 1]}, r"steps=5: needs 6 times, times has 3"),
        ({**GIVEN, "steps": 3, "times": [0, 0.5, 0.5, 1]}, r"times=\[0, 0\.5, 0\.5, 1\]: expected"),
        ({**GIVEN, "steps": 3, "times": [0.9, 0.5, 0.3, 0.1]}, r"flow times that rise from 0"),
        ({**GIVEN, "steps": 1, "times": [-0.1, 1]}, r"flow times that rise from 0 \(noise\) to 1"),
        ({**GIVEN, "steps": 1, "times": [0, 1.1]}, r"flow times that rise from 0 \(noise\) to 1"),
        ({**GIVEN, "steps": 1, "times": [0, float("nan")]}, r"flow times that rise from 0"),
    ],
)
@pytest.mark.parametrize("kind", [TimeGrid, Euler])
def test_what_does_not_go_together_is_refused(
    kind: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        kind(**{"steps": 5, **options})


def test_single_step_solvers_do_not_take_the_grid_of_multistep_solvers() -> None:
    with pytest.raises(RequestError, match="time_grid: unknown 'log_snr'; use uniform, quadratic"):
        Euler(steps=5, time_grid="log_snr")


def test_the_last_step_without_noise_comes_after_the_grid() -> None:
    """Of Euler-Maruyama's evaluations one is the last step's, unless all draw noise."""
    with pytest.raises(RequestError, match=r"steps=1: the last step draws no noise; use 2 or more"):
        EulerMaruyama(steps=1)
    assert EulerMaruyama(steps=1, last_step="none").grid.steps == 1
    asked: list[float] = []
    predict = three_spots().predictor(Linear())

    def noted(x: Tensor, t: float) -> Prediction:
        asked.append(t)
        return predict(x, t)

    for last_step, expected in (("mean", [0, 0.48, 0.96]), ("none", [0, 1 / 3, 2 / 3])):
        asked.clear()
        sampler = EulerMaruyama(steps=3, last_step=last_step, last_step_size=0.04)
        sampler.sample(noted, draw(-1), interpolant=Linear(), draw_noise=draw)
        assert asked == pytest.approx(expected)


SOLVERS: list[tuple[Any, float, float]] = [
    (Euler, 0.0, 1.0),
    (Midpoint, 0.0, 1.0),
    (Heun, 0.0, 1.0),
    (RK4, 0.0, 1.0),
    (lambda **options: EulerMaruyama(last_step="none", **options), 0.0, 1.0),
]


@pytest.mark.parametrize(("kind", "low", "high"), SOLVERS)
def test_given_times_of_a_rule_are_that_rule(kind: Any, low: float, high: float) -> None:
    """Exactly: the same numbers in the same order."""
    path = Trigonometric(t_min=low, t_max=high)
    predict = three_spots().predictor(path)
    for rule in RULES:
        times = TimeGrid(steps=6, **rule).over(low, high)
        first, second = (
            kind(steps=6, **options).sample(predict, draw(-1), interpolant=path, draw_noise=draw)
            for options in (rule, {"time_grid": "given", "times": times})
        )
        assert torch.equal(first, second)


@pytest.mark.parametrize("kind", [DPMSolver, UniPC])
def test_multistep_solvers_are_asked_at_every_given_time(kind: Any) -> None:
    """As many as steps: those of a rule, which on a path with noise at its end include the end."""
    noisy, clean = Trigonometric(t_min=0.01, t_max=0.99), Trigonometric(t_min=0.01)
    for path, intervals in ((noisy, 5), (clean, 6)):
        predict = three_spots().predictor(path)
        times = TimeGrid(steps=intervals).over(0.01, path.t_max)[:6]
        first, second = (
            kind(steps=6, **options).sample(predict, draw(-1), interpolant=path, draw_noise=draw)
            for options in ({"time_grid": "uniform"}, {"time_grid": "given", "times": times})
        )
        assert torch.equal(first, second)
    to_the_end = kind(steps=3, time_grid="given", times=[0.0, 0.5, 1.0])
    predict = three_spots().predictor(Linear())
    out = to_the_end.sample(predict, draw(-1), interpolant=Linear(), draw_noise=draw)
    assert bool(out.isfinite().all())  # at t = 1 there is no noise to take away
    with pytest.raises(
        RequestError, match="steps=6: needs 6 times, times has 3; give as many, or change steps"
    ):
        kind(steps=6, time_grid="given", times=[0.1, 0.5, 0.9])
    with pytest.raises(RequestError, match="time_grid=log_snr: give times with time_grid=given"):
        kind(steps=2, times=[0.1, 0.5])


def test_a_grid_that_ends_early_ends_in_the_prediction_of_data() -> None:
    predict = three_spots().predictor(Linear())
    asked: list[float] = []

    def noted(x: Tensor, t: float) -> Prediction:
        asked.append(t)
        return predict(x, t)

    sampler = Euler(steps=3, **GIVEN)
    out = sampler.sample(noted, draw(-1), interpolant=Linear(), draw_noise=draw)
    assert asked == GIVEN["times"]
    x = draw(-1)
    for t, later in pairwise(asked):
        found = predict(x, t)
        x = x + (later - t) * (found.data - found.noise)
    torch.testing.assert_close(out, predict(x, 0.7).data, rtol=0, atol=1e-14)
