"""Samples of a few values."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from dit_lab.statistics.samples import Sample


def test_samples() -> None:
    assert Sample.of([1.0, 2.0, 3.0]) == Sample(3, 2.0, 1.0)
    assert Sample.of([1.5]) == Sample(1, 1.5, None)
    none = Sample.of([])
    assert none.n == 0 and math.isnan(none.mean) and none.sd is None


def test_equal_values_have_no_deviation_at_all() -> None:
    assert np.std([0.1, 0.1, 0.1], ddof=1) > 0  # what rounding makes of it
    assert Sample.of([0.1, 0.1, 0.1]) == Sample(3, 0.1, 0.0)


def test_a_small_deviation_of_a_large_mean_is_kept() -> None:
    assert Sample.of([1e8, 1e8 + 1, 1e8 + 2]) == Sample(3, 1e8 + 1, 1.0)


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_the_interval_of_a_mean_is_scipys(level: float) -> None:
    values = np.random.default_rng(0).normal(3, 2, 5).tolist()
    wanted = stats.ttest_1samp(values, 0).confidence_interval(level)
    assert Sample.of(values).interval(level) == pytest.approx((wanted.low, wanted.high))
