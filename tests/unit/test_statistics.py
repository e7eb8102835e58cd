"""Contrasts, Holm's correction and detectable differences: against scipy, and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from dit_lab.sweeps.statistics import (
    Sample,
    contrast,
    detectable_difference,
    holm,
    welch,
)


def drawn(seed: int, n: int, mean: float = 0.0, sd: float = 1.0) -> list[float]:
    return np.random.default_rng(seed).normal(mean, sd, n).tolist()


# ---- samples ------------------------------------------------------------------------------------


def test_samples() -> None:
    assert Sample.of([1.0, 2.0, 3.0]) == Sample(3, 2.0, 1.0)
    assert Sample.of([1.5]) == Sample(1, 1.5, None)
    none = Sample.of([])
    assert none.n == 0 and math.isnan(none.mean) and none.sd is None


def test_equal_values_have_no_spread_at_all() -> None:
    assert np.std([0.1, 0.1, 0.1], ddof=1) > 0  # what rounding makes of it
    assert Sample.of([0.1, 0.1, 0.1]) == Sample(3, 0.1, 0.0)


def test_a_small_spread_on_a_large_mean_is_kept() -> None:
    assert Sample.of([1e8, 1e8 + 1, 1e8 + 2]) == Sample(3, 1e8 + 1, 1.0)


# ---- contrasts ----------------------------------------------------------------------------------

COUNTS = [(3, 3), (2, 2), (3, 5), (10, 2), (40, 7)]


@pytest.mark.parametrize(("n1", "n2"), COUNTS)
@pytest.mark.parametrize("seed", range(5))
def test_welch_is_scipys(n1: int, n2: int, seed: int) -> None:
    first, second = drawn(seed, n1, 1.0, 0.3), drawn(seed + 100, n2, 0.5, 2.0)
    found = welch(Sample.of(first), Sample.of(second))
    wanted = stats.ttest_ind(first, second, equal_var=False)
    assert found.estimate == pytest.approx(np.mean(first) - np.mean(second), rel=1e-12)
    assert found.estimate / found.standard_error == pytest.approx(wanted.statistic, rel=1e-12)
    assert found.degrees_of_freedom == pytest.approx(wanted.df, rel=1e-12)
    assert found.p_value == pytest.approx(wanted.pvalue, rel=1e-10)
    for level in (0.8, 0.95, 0.999):
        interval = wanted.confidence_interval(level)
        assert found.interval(level) == pytest.approx((interval.low, interval.high), rel=1e-10)


def test_a_contrast_of_four_by_hand() -> None:
    """Spreads 1, 2, 1, 0 at n = 4, 4, 2, 3 and weights 1/2, 1/2, -1/2, -1/2."""
    samples = [Sample(4, 3.0, 1.0), Sample(4, 5.0, 2.0), Sample(2, 2.0, 1.0), Sample(3, 0.0, 0.0)]
    found = contrast(zip([0.5, 0.5, -0.5, -0.5], samples, strict=True))
    parts = [1 / 16, 4 / 16, 1 / 8, 0]  # c^2 s^2 / n
    assert found.estimate == 3.0
    assert found.standard_error == pytest.approx(math.sqrt(sum(parts)), rel=1e-15)
    shares = parts[0] ** 2 / 3 + parts[1] ** 2 / 3 + parts[2] ** 2 / 1
    assert found.degrees_of_freedom == pytest.approx(sum(parts) ** 2 / shares, rel=1e-15)


def test_a_contrast_covers_its_truth() -> None:
    """2,000 intervals of 80 % from three unlike samples cover as often as they say.

    Satterthwaite's degrees are approximate: a point of error is allowed beside 4 standard errors
    of the count (a false alarm once in 15,000, but seeds are fixed).
    """
    rng, covered = np.random.default_rng(0), 0
    for _ in range(2000):
        groups = [rng.normal(m, s, n).tolist() for m, s, n in ((1, 1, 3), (2, 3, 6), (4, 0.5, 4))]
        found = contrast(zip((1, 1, -2), map(Sample.of, groups), strict=True))
        low, high = found.interval(0.8)
        covered += low < 1 + 2 - 2 * 4 < high
    assert abs(covered / 2000 - 0.8) < 0.01 + 4 * math.sqrt(0.8 * 0.2 / 2000)


def test_scale_changes_neither_degrees_nor_p() -> None:
    first, second = drawn(0, 3), drawn(1, 4)
    one = welch(Sample.of(first), Sample.of(second))
    for factor in (1e-9, -3.0, 1e9):
        other = welch(
            Sample.of([factor * x for x in first]), Sample.of([factor * x for x in second])
        )
        assert other.degrees_of_freedom == pytest.approx(one.degrees_of_freedom, rel=1e-9)
        assert other.p_value == pytest.approx(one.p_value, rel=1e-9)


def test_one_sample_without_spread() -> None:
    """The other one's degrees of freedom are left: a one-sample test."""
    values = drawn(0, 5, 0.3)
    found = welch(Sample.of(values), Sample(3, 1.0, 0.0))
    assert found.degrees_of_freedom == pytest.approx(4)
    assert found.p_value == pytest.approx(stats.ttest_1samp(values, 1.0).pvalue)


@pytest.mark.parametrize("other", [0.5, 0.7])
@pytest.mark.parametrize("spread", [0.0, 1e-170])  # its fourth power is no number any more
def test_no_spread_at_all_is_no_test(other: float, spread: float) -> None:
    found = welch(Sample(3, 0.5, spread), Sample(3, other, spread))
    assert found.estimate == 0.5 - other
    assert found.standard_error == 0
    assert math.isnan(found.p_value) and math.isnan(found.degrees_of_freedom)
    assert all(map(math.isnan, found.interval()))


def test_one_run_has_no_contrast() -> None:
    with pytest.raises(AssertionError):
        welch(Sample.of([1.0]), Sample.of([1.0, 2.0]))


# ---- Holm ---------------------------------------------------------------------------------------


def test_holm_by_hand() -> None:
    assert holm([]) == []
    assert holm([0.03]) == [0.03]
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8, 0.01]) == pytest.approx([1.0, 1.0, 0.03])
    assert holm([0.02, 0.02, 0.02]) == pytest.approx([0.06, 0.06, 0.06])


@pytest.mark.parametrize("seed", range(20))
def test_holm_claims_what_the_procedure_claims(seed: int) -> None:
    """Word by word: from the smallest on, reject at alpha / (m - k + 1) until one is kept."""
    p_values = (np.random.default_rng(seed).random(12) ** 4).tolist()
    claimed = set()
    for rank, index in enumerate(np.argsort(p_values)):
        if p_values[index] >= 0.05 / (12 - rank):
            break
        claimed.add(int(index))
    assert {index for index, p in enumerate(holm(p_values)) if p < 0.05} == claimed


# ---- detectable differences ---------------------------------------------------------------------


def detectable(
    n1: int, n2: int, *, sd1: float = 1.0, sd2: float = 1.0, comparisons: int = 1
) -> float:
    found = welch(Sample(n1, 0.0, sd1), Sample(n2, 0.0, sd2))
    return detectable_difference(found, alpha=0.05, power=0.8, comparisons=comparisons)


def test_detectable_difference_by_the_textbook() -> None:
    """Small, medium and large differences of 0.2, 0.5 and 0.8 spreads take 394, 64 and 26 runs in
    each group at alpha 0.05, two-sided, and power 0.8, as power programs say (Cohen's table
    rounds the first one down)."""
    for n, effect in ((394, 0.2), (64, 0.5), (26, 0.8)):
        assert detectable(n, n) <= effect
        assert detectable(n - 1, n - 1) > effect


@pytest.mark.parametrize(("n1", "n2"), [(3, 3), (4, 3), (3, 5), (10, 10), (500, 3)])
@pytest.mark.parametrize("sd2", [0.02, 0.1])
@pytest.mark.parametrize("comparisons", [1, 22, 2000])
def test_detectable_difference_solves_its_equation(
    n1: int, n2: int, sd2: float, comparisons: int
) -> None:
    found = welch(Sample(n1, 0.7, 0.02), Sample(n2, 0.3, sd2))
    value = detectable_difference(found, alpha=0.05, power=0.8, comparisons=comparisons)
    critical = stats.t.isf(0.05 / comparisons / 2, found.degrees_of_freedom)
    noncentrality = value / found.standard_error
    power = stats.nct.sf(critical, found.degrees_of_freedom, noncentrality)
    assert power == pytest.approx(0.8, abs=1e-5)


@pytest.mark.parametrize(("n", "lowest"), [(3, 0.6), (10, 0.75)])
@pytest.mark.parametrize("sd", [1.0, 0.15])
def test_what_is_detectable_is_found(n: int, lowest: float, sd: float) -> None:
    """The typical value that sweeps report, taken for true, in Welch's test at level 0.05 / 8.

    The docstring's shares, less four standard errors of 2,000 tries and a point.
    """
    rng, tries = np.random.default_rng(0), 2000
    first, second = rng.normal(0, 1, (tries, n)), rng.normal(0, sd, (tries, n))
    pairs = [
        (Sample.of(a), Sample.of(b)) for a, b in zip(first.tolist(), second.tolist(), strict=True)
    ]
    typical = np.median(
        [detectable_difference(welch(a, b), alpha=0.05, power=0.8, comparisons=8) for a, b in pairs]
    )
    tests = stats.ttest_ind(first + typical, second, axis=1, equal_var=False)
    power = np.mean((tests.pvalue < 0.05 / 8) & (tests.statistic > 0))
    assert lowest - 4 * math.sqrt(0.8 * 0.2 / tries) < power < 0.8 + 0.04


def test_more_seeds_see_smaller_differences() -> None:
    seen = [detectable(n, n) for n in (2, 3, 5, 10, 100)]
    assert seen == sorted(seen, reverse=True)
    assert detectable(3, 3, comparisons=20) > detectable(3, 3)
    assert detectable(3, 3, sd1=2.0) > detectable(3, 3)


def test_nothing_is_detectable_without_spread() -> None:
    assert math.isnan(detectable(3, 3, sd1=0.0, sd2=0.0))
