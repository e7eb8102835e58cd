"""The kernel distance against a loop over pairs, its expectation, and torch-fidelity."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
import torch

from dit_lab.evaluation.features.extractors import Features
from dit_lab.evaluation.metrics import kernel
from dit_lab.evaluation.metrics.kernel import kernel_distance


def normal(seed: int, count: int, features: int = 8, mean: float = 0.0) -> Features:
    return np.random.default_rng(seed).normal(mean, 1, (count, features)).astype(np.float32)


def by_pairs(first: Features, second: Features) -> float:
    """Compute the paper's estimator by a loop over pairs."""

    def k(x: list[float], y: list[float]) -> float:
        return (sum(a * b for a, b in zip(x, y, strict=True)) / len(x) + 1) ** 3

    def mean(pairs: list[tuple[list[float], list[float]]]) -> float:
        return sum(k(x, y) for x, y in pairs) / len(pairs)

    xs, ys = first.tolist(), second.tolist()
    within = mean(list(permutations(xs, 2))) + mean(list(permutations(ys, 2)))
    return within - 2 * mean(list(product(xs, ys)))


def test_by_hand() -> None:
    """Of one feature: x at 1 and 1, (1 + 1)^3; y at -1 and 1, (-1 + 1)^3; across 0, 0, 8, 8."""
    first, second = np.float32([[1], [1]]), np.float32([[-1], [1]])
    assert kernel_distance(first, second, seed=0) == 8 + 0 - 2 * 4


@pytest.mark.parametrize(("count", "other"), [(2, 2), (7, 12), (12, 7)])
def test_as_the_double_loop(count: int, other: int) -> None:
    first, second = normal(0, count), normal(1, other, mean=0.5)
    # terms up to 1e2 in float64, summed in another order
    assert kernel_distance(first, second, seed=0) == pytest.approx(
        by_pairs(first, second), abs=1e-12
    )


def test_equal_distributions_are_at_no_distance_on_average() -> None:
    """Unbiased: estimates fall on both sides of 0, and their mean within its own error."""
    found = [kernel_distance(normal(2 * n, 50), normal(2 * n + 1, 80), seed=0) for n in range(200)]
    assert abs(np.mean(found)) < 3 * np.std(found) / len(found) ** 0.5
    assert min(found) < 0 < max(found)


def test_the_expectation_of_shifted_normals() -> None:
    """One feature, N(0, 1) and N(m, 1): k = a^3 + 3 a^2 + 3 a + 1 with a = x y.

    The distance is the sum of squared differences of moments: 1, 3 and 3 times those of the third,
    second and first.
    """
    m = 0.7
    expected = (m**3 + 3 * m) ** 2 + 3 * (m**2) ** 2 + 3 * m**2
    found = [
        kernel_distance(normal(2 * n, 100, 1), normal(2 * n + 1, 100, 1, m), seed=0)
        for n in range(200)
    ]
    assert abs(np.mean(found) - expected) < 3 * np.std(found) / len(found) ** 0.5


def test_subsets_are_drawn_from_each_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """Distinct images of a larger set, all of a smaller one, the same for the same seed."""
    monkeypatch.setattr(kernel, "SUBSET_IMAGES", 20)
    drawn: list[tuple[Features, Features]] = []

    def noted(first: Features, second: Features) -> float:
        drawn.append((first, second))
        return float(len(drawn))

    monkeypatch.setattr(kernel, "_squared_mmd", noted)
    numbered = np.arange(200, dtype=np.float32)[:, None]
    assert kernel_distance(numbered, -numbered[:15], seed=0) == 50.5  # the mean of 1 to 100
    assert len(drawn) == 100
    for first, second in drawn:
        assert len(np.unique(first)) == 20
        assert np.array_equal(np.sort(-second, axis=0), numbered[:15])
    assert len(np.unique(np.concatenate([first for first, _ in drawn]))) == 200

    before = [first for first, _ in drawn]
    drawn.clear()
    kernel_distance(numbered, -numbered[:15], seed=0)
    assert all(np.array_equal(a, b) for a, (b, _) in zip(before, drawn, strict=True))
    drawn.clear()
    kernel_distance(numbered, -numbered[:15], seed=1)
    assert not any(np.array_equal(a, b) for a, (b, _) in zip(before, drawn, strict=True))


def test_subsets_estimate_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = normal(0, 400), normal(1, 300, mean=0.5)
    whole = kernel_distance(first, second, seed=0)
    monkeypatch.setattr(kernel, "SUBSET_IMAGES", 50)
    # a hundred estimates of 50 images that scatter by a fifth: a fiftieth of their mean, and more
    # where subsets share images
    assert kernel_distance(first, second, seed=0) == pytest.approx(whole, rel=0.1)


@pytest.mark.parametrize(("count", "features"), [(60, 8), (200, 64)])
def test_as_torch_fidelity(count: int, features: int) -> None:
    """A subset of all images is the same in every draw."""
    metric = pytest.importorskip("torch_fidelity.metric_kid")
    first, second = normal(0, count, features), normal(1, count, features, mean=0.3)
    found = metric.kid_features_to_metric(
        torch.from_numpy(first).double(),
        torch.from_numpy(second).double(),
        kid_subsets=2,
        kid_subset_size=count,
        verbose=False,
    )
    # both in float64
    assert kernel_distance(first, second, seed=0) == pytest.approx(
        found[metric.KEY_METRIC_KID_MEAN], rel=1e-9
    )
