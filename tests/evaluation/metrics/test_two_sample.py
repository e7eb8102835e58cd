"""The two-sample test: chance for equal sets, 1 for different sets, and determinism.

Uses a tenth of the trees; the tests do not depend on their number.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from dit_lab.evaluation.features.extractors import Features
from dit_lab.evaluation.metrics import two_sample
from dit_lab.evaluation.metrics.two_sample import FOLDS, two_sample_accuracy

COUNT, FEATURES = 60, 8


@pytest.fixture(autouse=True)
def _few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(two_sample, "TREES", 20)


def normal(seed: int, *, count: int = COUNT, mean: float = 0.0) -> Features:
    return np.random.default_rng(seed).normal(mean, 1, (count, FEATURES)).astype(np.float32)


def test_equal_distributions_are_at_chance() -> None:
    """Each of 240 answers is random, so the accuracy has a standard error of 0.032.

    By folds it is slightly larger. Four of them: a false alarm in one of 10,000 seeds.
    """
    for seed in range(3):
        value = two_sample_accuracy(
            normal(seed, count=120), normal(seed + 100, count=120), seed=seed
        )
        assert 0.5 <= value < 0.5 + 4 * 0.032


def test_disjoint_sets_are_told_apart_always() -> None:
    assert two_sample_accuracy(normal(0), normal(1, mean=20), seed=0) == 1.0


def test_a_difference_that_is_in_no_single_feature_is_found() -> None:
    """All marginals are equal; in one set the first two features have the same sign."""
    rng = np.random.default_rng(0)
    first, second = (rng.normal(0, 1, (400, 4)).astype(np.float32) for _ in range(2))
    second[:, 1] = np.abs(second[:, 1]) * np.sign(second[:, 0])
    assert two_sample_accuracy(first, second, seed=0) > 0.65  # 0.5 + 2.5 standard errors is 0.54


def test_copies_push_below_chance_and_are_folded() -> None:
    """A test image's copy, if used for training (four times of five), has the other label.

    The trees predict that label: wrong in nine of ten, which separates the sets just as well.
    """
    images = normal(0)
    shuffled = images[np.random.default_rng(1).permutation(COUNT)]
    for copies in (images.copy(), shuffled):
        # four standard errors of 120 answers at 0.9
        assert two_sample_accuracy(images, copies, seed=0) == pytest.approx(0.9, abs=4 * 0.028)


def test_few_copies_say_little() -> None:
    """The test alone does not detect 10% of copies; the distances do."""
    first, second = normal(0, count=100), normal(1, count=100)
    second[:10] = first[:10]
    assert two_sample_accuracy(first, second, seed=0) < 0.65


def test_the_seed_decides() -> None:
    first, second = normal(0), normal(1, mean=0.3)
    values = {two_sample_accuracy(first, second, seed=seed) for seed in range(4)}
    assert len(values) > 1  # the seed is used
    again = two_sample_accuracy(first, second, seed=3)
    assert again == two_sample_accuracy(first.copy(), second.copy(), seed=3)
    np.random.seed(5)  # nothing global takes part
    assert again == two_sample_accuracy(first, second, seed=3)


def test_the_order_of_the_sets_hardly_matters() -> None:
    """Exchanged sets have other folds: equal within four standard errors."""
    first, second = normal(0, count=100), normal(1, count=100, mean=0.6)
    there, back = (
        two_sample_accuracy(*pair, seed=0) for pair in ((first, second), (second, first))
    )
    assert there > 0.7
    assert abs(there - back) < 4 * 0.03


def test_the_least_count() -> None:
    first, second = normal(0, count=FOLDS), normal(1, count=FOLDS, mean=20)
    assert two_sample_accuracy(first, second, seed=0) == 1.0
    with pytest.raises(ValueError, match="n_splits=5"):
        two_sample_accuracy(normal(0, count=FOLDS - 1), normal(1, count=FOLDS - 1), seed=0)


def test_unequal_counts_are_the_programmers_to_put_right() -> None:
    with pytest.raises(AssertionError, match="chance level"):
        two_sample_accuracy(normal(0), normal(1, count=COUNT + 1), seed=0)


def test_threads_change_nothing() -> None:
    """Neither several tests at once nor the libraries' own threads."""
    pairs = [(normal(seed), normal(seed + 100, mean=0.3)) for seed in range(4)]

    def value(pair: tuple[Features, Features]) -> float:
        return two_sample_accuracy(*pair, seed=0)

    with threadpool_limits(1):
        alone = [value(pair) for pair in pairs]
    with threadpool_limits(3), ThreadPoolExecutor(3) as pool:
        assert list(pool.map(value, pairs)) == alone
