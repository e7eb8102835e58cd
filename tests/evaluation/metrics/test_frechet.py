"""The Frechet distance against known values, scipy's matrix square root, and torch-fidelity."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import hadamard, sqrtm

from dit_lab.evaluation.features.extractors import Features
from tests.frechet import frechet_distance

ROWS, FEATURES = 16, 4


def designed(deviations: list[float], mean: float = 0.0, *, first_column: int = 1) -> Features:
    """Return features with a diagonal sample covariance of exactly these squared deviations.

    The columns of a Hadamard matrix after the first are orthogonal and sum to zero.
    """
    columns = hadamard(ROWS)[:, first_column : first_column + len(deviations)]
    scale = np.array(deviations) * np.sqrt((ROWS - 1) / ROWS)
    return mean + columns * scale


def normal(seed: int, count: int, features: int, mean: float = 0.0, scale: float = 1.0) -> Features:
    return np.random.default_rng(seed).normal(mean, scale, (count, features)).astype(np.float32)


def textbook(first: Features, second: Features) -> float:
    """Compute the formula literally, with a matrix square root of the product."""
    covariances = [
        np.cov(features.astype(np.float64), rowvar=False) for features in (first, second)
    ]
    root = sqrtm(covariances[0] @ covariances[1])
    means = [features.astype(np.float64).mean(axis=0) for features in (first, second)]
    square = ((means[0] - means[1]) ** 2).sum()
    return float((square + np.trace(covariances[0] + covariances[1] - 2 * root)).real)


@pytest.mark.parametrize(("count", "features"), [(50, 5), (20, 64), (7, 1)])
def test_a_set_is_at_no_distance_from_itself(count: int, features: int) -> None:
    first = normal(0, count, features)
    # traces of up to 64, each right to 1e-15 of itself
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-12)
    shuffled = first[np.random.default_rng(1).permutation(count)]
    assert frechet_distance(first, shuffled) == pytest.approx(0, abs=1e-12)


def test_a_shift_counts_with_its_square() -> None:
    first = normal(0, 30, 3)
    shift = np.float32([1, -2, 0.5])  # 1 + 4 + 1/4
    # float32 sums of values below 4 are right to 2e-7
    assert frechet_distance(first, first + shift) == pytest.approx(5.25, abs=1e-5)


def test_diagonal_gaussians() -> None:
    """Sum of (s1 - s2)^2, and of the squared shifts; what decides is the sample covariance."""
    first, second = designed([1, 2, 3, 0.5]), designed([2, 2, 0, 0.25], mean=3.0)
    expected = 1 + 0 + 9 + 0.0625 + 4 * 9
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-12)
    assert frechet_distance(second, first) == pytest.approx(expected, rel=1e-12)


def test_the_pattern_within_a_set_is_nothing_to_it() -> None:
    """Only means and covariances matter: the same Gaussian, realised by other columns."""
    first, second = designed([1, 2, 3]), designed([1, 2, 3], first_column=8)
    assert not np.array_equal(first, second)
    assert frechet_distance(first, second) == pytest.approx(0, abs=1e-12)


def test_correlation_is_seen() -> None:
    """Two features with equal variances and correlations r and -r.

    The covariances share eigenvectors with eigenvalues 1 + r and 1 - r exchanged, so the distance
    is 2 (sqrt(1 + r) - sqrt(1 - r))^2.
    """
    columns, r = designed([1, 1]), 0.8
    mixed = [
        np.stack([columns[:, 0], sign * r * columns[:, 0] + (1 - r**2) ** 0.5 * columns[:, 1]], 1)
        for sign in (1, -1)
    ]
    expected = 2 * ((1 + r) ** 0.5 - (1 - r) ** 0.5) ** 2
    assert frechet_distance(*mixed) == pytest.approx(expected, rel=1e-12)


def test_fewer_images_than_features() -> None:
    """Rank-deficient covariances on different axes: nothing overlaps, so the traces add up."""
    first, second = np.zeros((2, 6)), np.zeros((2, 6))
    first[:, 0], second[:, 3] = [-1, 1], [-2, 2]  # variances 2 and 8
    assert frechet_distance(first, second) == pytest.approx(10, rel=1e-12)
    assert frechet_distance(first, 2 * first) == pytest.approx(2, rel=1e-12)  # (2 - 1)^2 times 2
    many = normal(0, 12, 100)
    # three times the deviation: (3 - 1)^2 of the trace
    trace = many.astype(np.float64).var(axis=0, ddof=1).sum()
    assert frechet_distance(many, 3 * many) == pytest.approx(
        4 * trace + 4 * (many.mean(axis=0, dtype=np.float64) ** 2).sum(),
        rel=1e-6,  # of float32
    )


def test_unequal_counts_and_symmetry() -> None:
    first, second = normal(0, 40, 6), normal(1, 90, 6, mean=0.5, scale=2)
    there, back = frechet_distance(first, second), frechet_distance(second, first)
    assert there == pytest.approx(back, rel=1e-12)
    assert there > 0
    assert isinstance(there, float)


@pytest.mark.parametrize(
    ("count", "other", "features"), [(60, 60, 4), (200, 150, 32), (30, 25, 20)]
)
def test_as_the_formula_with_sqrtm(count: int, other: int, features: int) -> None:
    """Both in float64; scipy's root of the product loses some digits to its condition."""
    first, second = normal(0, count, features), normal(1, other, features, 0.3, 1.5)
    # covariances of 30 images and 20 features have condition numbers of 1e3: 1e-16 to 1e-11
    assert frechet_distance(first, second) == pytest.approx(textbook(first, second), rel=1e-9)


def test_never_below_zero_by_more_than_rounding() -> None:
    for seed in range(20):
        assert frechet_distance(normal(seed, 9, 9), normal(seed, 9, 9)) > -1e-12


def doubled(features: Features) -> Features:
    """Duplicate every column, which gives a covariance of half rank."""
    return np.concatenate([features, features], axis=1)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (normal(0, 300, 16), normal(1, 200, 16, 0.3, 1.5)),
        (normal(0, 20, 64), normal(1, 30, 64, 0.3, 1.5)),
        (doubled(normal(0, 100, 12)), doubled(normal(1, 90, 12, 0.3, 1.5))),
        (doubled(normal(0, 20, 40)), normal(1, 30, 80)),
    ],
    ids=["full rank", "fewer images than features", "columns twice", "both"],
)
def test_as_torch_fidelity(first: Features, second: Features) -> None:
    metric = pytest.importorskip("torch_fidelity.metric_fid")
    found = metric.fid_statistics_to_metric(
        *(metric.fid_features_to_statistics(torch.from_numpy(f).double()) for f in (first, second)),
        verbose=False,
    )
    # eigenvalues of a singular product are 0 up to 1e-16 of the largest, and it takes roots of
    # those: 1e-8 of a trace each, 1e-6 for all
    assert frechet_distance(first, second) == pytest.approx(found[metric.KEY_METRIC_FID], rel=1e-5)
