"""Estimates of contrasts: against scipy, and by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from dit_lab.statistics.contrasts import FLOOR, Array, Family, Weights, estimate, quantile

DIFFERENCE: Weights = ((0, -1.0), (1, 1.0))


def family(
    *contrasts: Weights, measured: Sequence[Sequence[int]], trained: Sequence[int] | None = None
) -> Family:
    return Family(
        contrasts,
        tuple(tuple(bool(one) for one in seeds) for seeds in measured),
        tuple(trained or range(len(measured))),
    )


def drawn(configurations: int, seeds: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=(configurations, seeds))


# ---- configurations that were trained apart ------------------------------------------------------


@pytest.mark.parametrize(("n1", "n2"), [(3, 3), (2, 2), (3, 5), (10, 2), (9, 7)])
def test_two_of_similar_deviations_are_compared_as_by_welch(n1: int, n2: int) -> None:
    values = np.zeros((2, 10))
    for row, n, deviation, mean in ((values[0], n1, 1.0, 0.5), (values[1], n2, 1.3, 3.0)):
        some = drawn(1, n)[0]
        row[:n] = mean + deviation * some / some.std(ddof=1)
    measured = [[n < count for n in range(10)] for count in (n1, n2)]
    found = estimate(family(DIFFERENCE, measured=measured), values)
    wanted = stats.ttest_ind(values[1, :n2], values[0, :n1], equal_var=False)
    assert found.estimate[0] / found.standard_error[0] == pytest.approx(wanted.statistic)
    assert found.degrees_of_freedom[0] == pytest.approx(wanted.df)
    low, high = wanted.confidence_interval(0.95)
    assert found.half_width[0] == pytest.approx((high - low) / 2, rel=1e-5)
    assert (found.ratio[0] > 1) == (wanted.pvalue < 0.05)


def test_a_contrast_of_four_by_hand() -> None:
    """Variances 1, 4, 1 and 0 of 3 seeds; the floor is a quarter of the root of 18 / 4."""
    steps = np.array([-1.0, 0.0, 1.0])
    values = np.array([3 + steps, 5 + 2 * steps, 2 + steps, 0 * steps])
    weights = ((0, 0.5), (1, 0.5), (2, -0.5), (3, -0.5))
    found = estimate(family(weights, measured=[[1, 1, 1]] * 4), values)
    errors = np.array([1, 4, 1, 0.25 * math.sqrt(18 / 4)]) / 4 / 3
    assert found.estimate[0] == pytest.approx(3.0, rel=1e-12)
    assert found.standard_error[0] == pytest.approx(math.sqrt(errors.sum()), rel=1e-12)
    assert found.degrees_of_freedom[0] == pytest.approx(errors.sum() ** 2 / (errors**2 / 2).sum())


def test_a_variance_is_not_taken_as_smaller_than_the_floor() -> None:
    """Of a baseline whose three values happen to agree."""
    values = drawn(6, 3)
    values[0] = [1.0, 1.0 + 1e-6, 1.0 - 1e-6]
    contrasts = [((0, -1.0), (n, 1.0)) for n in range(1, 6)]
    found = estimate(family(*contrasts, measured=[[1] * 3] * 6), values)
    variances = values.var(1, ddof=1)
    floor = FLOOR * np.sqrt(np.mean(variances**2))
    wanted = np.sqrt((np.maximum(variances[1:], floor) + floor) / 3)
    assert found.standard_error == pytest.approx(wanted)


def test_each_variance_counts_once_for_the_floor() -> None:
    """The baseline is in every contrast, and its variance no more usual for that."""
    values = drawn(4, 5) * [[10.0], [1.0], [1.0], [1.0]]
    contrasts = [((0, -1.0), (n, 1.0)) for n in range(1, 4)]
    variances = values.var(1, ddof=1)
    floor = FLOOR * np.sqrt(np.mean(variances**2))
    found = estimate(family(*contrasts, measured=[[1] * 5] * 4), values)
    assert floor > variances[1:].max()
    assert found.standard_error == pytest.approx([math.sqrt((variances[0] + floor) / 5)] * 3)


def test_what_was_not_measured_is_not_read() -> None:
    values, measured = drawn(2, 6), [[1, 1, 1, 0, 0, 1], [0, 1, 1, 1, 1, 1]]
    asked = family(DIFFERENCE, measured=measured)
    found = estimate(asked, values)
    other = estimate(asked, np.where(measured, values, 7.0))
    assert other.estimate == found.estimate and other.standard_error == found.standard_error


# ---- configurations that share models ------------------------------------------------------------


def test_shared_models_are_compared_seed_by_seed() -> None:
    common = 5 * drawn(1, 6, seed=9)
    values = common + 0.1 * drawn(2, 6)
    shared = estimate(family(DIFFERENCE, measured=[[1] * 6] * 2, trained=(0, 0)), values)
    wanted = stats.ttest_rel(values[1], values[0])
    assert shared.estimate[0] / shared.standard_error[0] == pytest.approx(wanted.statistic)
    assert shared.degrees_of_freedom[0] == pytest.approx(wanted.df)
    apart = estimate(family(DIFFERENCE, measured=[[1] * 6] * 2), values)
    assert apart.standard_error[0] > 10 * shared.standard_error[0]


def test_only_seeds_that_all_have_are_compared() -> None:
    values, measured = drawn(2, 6), [[1, 1, 1, 1, 0, 1], [0, 1, 1, 1, 1, 1]]
    found = estimate(family(DIFFERENCE, measured=measured, trained=(3, 3)), values)
    differences = (values[1] - values[0])[[1, 2, 3, 5]]
    assert found.estimate[0] == pytest.approx(differences.mean())
    assert found.standard_error[0] == pytest.approx(differences.std(ddof=1) / 2)


def test_an_average_over_samplers_is_one_value_a_seed() -> None:
    """Two models by three samplers each: not six values a model and seed, but one."""
    values = np.repeat(drawn(2, 4, seed=1), 3, axis=0) + 1e-3 * drawn(6, 4)
    effect = tuple((n, (1 if n > 2 else -1) / 3) for n in range(6))
    found = estimate(family(effect, measured=[[1] * 4] * 6, trained=(0, 0, 0, 1, 1, 1)), values)
    means = values.reshape(2, 3, 4).mean(1)
    wanted = stats.ttest_ind(means[1], means[0], equal_var=False)
    assert found.estimate[0] == pytest.approx(means[1].mean() - means[0].mean())
    assert found.estimate[0] / found.standard_error[0] == pytest.approx(wanted.statistic)
    assert found.degrees_of_freedom[0] == pytest.approx(wanted.df)


# ---- no spread -----------------------------------------------------------------------------------


@pytest.mark.parametrize("trained", [(0, 1), (0, 0)])
@pytest.mark.parametrize("spread", [0.0, 1e-170])
def test_without_any_spread_there_is_no_test(spread: float, trained: Sequence[int]) -> None:
    values = np.array([[0.1] * 3, [0.3] * 3]) + spread * drawn(2, 3)
    found = estimate(family(DIFFERENCE, measured=[[1] * 3] * 2, trained=trained), values)
    assert found.standard_error[0] == 0 and found.ratio[0] == 0
    assert math.isnan(found.degrees_of_freedom[0]) and math.isnan(found.half_width[0])


def test_equal_values_of_shared_models_are_no_difference() -> None:
    """Their differences are 0, or what rounding leaves of it."""
    values = np.repeat(drawn(1, 3) * 0.1 + 1 / 3, 2, axis=0)
    found = estimate(family(DIFFERENCE, measured=[[1] * 3] * 2, trained=(0, 0)), values)
    assert found.standard_error[0] == 0


# ---- form ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [1e-9, -3.0, 1e9])
def test_scale_does_not_matter(factor: float) -> None:
    asked = family(DIFFERENCE, measured=[[1] * 3] * 2)
    one, other = estimate(asked, drawn(2, 3)), estimate(asked, factor * drawn(2, 3))
    assert other.ratio == pytest.approx(one.ratio)
    assert other.degrees_of_freedom == pytest.approx(one.degrees_of_freedom)


def test_many_sweeps_at_once_are_each_of_them() -> None:
    contrasts = [((0, -1.0), (n, 1.0)) for n in range(1, 5)]
    asked = family(*contrasts, ((0, -0.5), (1, -0.5), (2, 0.5), (3, 0.5)),
                   measured=[[1] * 4] * 5, trained=(0, 1, 1, 2, 2))  # fmt: skip
    many = np.random.default_rng(0).normal(size=(7, 5, 4))
    together = estimate(asked, many)
    for n, values in enumerate(many):
        alone = estimate(asked, values)
        assert alone.ratio == pytest.approx(together.ratio[n], rel=1e-12)


def test_quantiles_are_scipys() -> None:
    degrees = np.array([1.0, 1.5, 2.0, 3.7, 10.0, 100.0, 1e6])
    assert quantile(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=1e-5)
