"""How often a reproduction with other seeds is called different, for known spreads."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import polygamma

from dit_lab.reproduce.expected import judge_metrics, recorded_metrics
from dit_lab.reproduce.tolerance import FALSE_ALARMS, _moderated, _trigamma_inverse, tolerances

METRICS = 10


def runs(draw: np.random.Generator, seeds: int, deviations: np.ndarray) -> dict[str, list[dict]]:  # type: ignore[type-arg]
    """Normal numbers of each configuration, by seed; deviations has shape (configurations,
    METRICS)."""
    drawn = draw.normal(0.5, deviations, (seeds, *deviations.shape))
    return {
        f"model={row}": [
            {f"eval/m{n}": float(x) for n, x in enumerate(seed[row])} for seed in drawn
        ]
        for row in range(len(deviations))
    }


def false_alarms(
    *, configurations: int, recorded: int, again: int, uneven: float, trials: int
) -> float:
    """The share of experiments of which some number is called different. The deviations of each
    metric differ from configuration to configuration by a factor whose logarithm has the deviation
    `uneven`."""
    draw, alarms = np.random.default_rng(0), 0
    for _ in range(trials):
        deviations = 0.02 * np.exp(draw.normal(0, uneven, (configurations, METRICS)))
        known = recorded_metrics(runs(draw, recorded, deviations))
        obtained = runs(draw, again, deviations)
        alarms += any(
            not verdict.good
            for label in known
            for verdict in judge_metrics(known[label], obtained[label])
        )
    return alarms / trials


@pytest.mark.slow
@pytest.mark.parametrize(("recorded", "again"), [(3, 1), (5, 1), (5, 3)])
def test_of_one_configuration(recorded: int, again: int) -> None:
    rate = false_alarms(configurations=1, recorded=recorded, again=again, uneven=0, trials=2000)
    # four standard errors of a binomial share; Bonferroni is a little below what it allows
    error = 4 * (FALSE_ALARMS * (1 - FALSE_ALARMS) / 2000) ** 0.5
    assert FALSE_ALARMS - 0.015 - error < rate < FALSE_ALARMS + error


@pytest.mark.slow
@pytest.mark.parametrize(
    ("configurations", "recorded", "uneven"), [(2, 3, 1), (3, 5, 1), (12, 3, 0), (12, 3, 1)]
)
def test_of_a_grid(configurations: int, recorded: int, uneven: float) -> None:
    """However different the spreads are, it stays near what is said."""
    rate = false_alarms(
        configurations=configurations, recorded=recorded, again=1, uneven=uneven, trials=300
    )
    print(f"{configurations} configurations, {recorded} seeds, uneven {uneven}: {rate:.1%}")
    assert rate < 0.11 + 4 * (0.11 * 0.89 / 300) ** 0.5  # with three configurations it is 11%


def test_a_grid_has_narrower_tolerances_than_its_configurations_alone() -> None:
    draw = np.random.default_rng(0)
    values = {(f"model={n}", "eval/loss"): list(draw.normal(0, 1, 3)) for n in range(12)}
    alone = np.mean([tolerances({number: of})[number] for number, of in values.items()])
    assert np.mean(list(tolerances(values).values())) < alone  # although there are twelve of them


def test_equal_spreads_are_as_good_as_one() -> None:
    """Degrees of freedom: all that the configurations have together, but for one of them."""
    own = {(f"model={n}", "eval/loss"): 4.0 for n in range(5)}
    for spread, degrees in _moderated(own, 2).values():
        assert degrees == 8
        assert spread > 4.0  # the logarithm of a variance by two degrees is low on average


@pytest.mark.parametrize("y", [0.1, 0.5, 3.0, 50.0])
def test_trigamma_inverse(y: float) -> None:
    assert math.isclose(_trigamma_inverse(float(polygamma(1, y))), y, rel_tol=1e-6)
