"""Precision, recall, density, coverage and nearest distances.

They are compared with values by hand on a line, a double loop, and torch-fidelity.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from dit_lab.evaluation.features.extractors import Features
from dit_lab.evaluation.metrics import neighbours
from dit_lab.evaluation.metrics.neighbours import (
    NEIGHBOURS,
    ROWS_AT_ONCE,
    coverage,
    density,
    distances,
    nearest,
    precision,
    recall,
)


def on_a_line(*places: float) -> Features:
    return np.array(places, np.float32)[:, None]


def normal(seed: int, count: int, features: int = 5, scale: float = 1.0) -> Features:
    return np.random.default_rng(seed).normal(0, scale, (count, features)).astype(np.float32)


def between(one: np.ndarray, other: np.ndarray) -> float:
    """Compute the distance in pure Python."""
    return math.dist(one.tolist(), other.tolist())


def covered(points: Features, by: Features, k: int) -> float:
    """Compute Kynkaanniemi's equations 1 and 2 literally."""
    inside = 0
    for point in points:
        for number, centre in enumerate(by):
            others = [between(centre, other) for n, other in enumerate(by) if n != number]
            if between(point, centre) <= sorted(others)[k - 1]:
                inside += 1
                break
    return inside / len(points)


def balls(points: Features, around: Features, k: int) -> list[list[bool]]:
    """Return which points the ball of each centre contains: Naeem's manifold, literally."""
    held = []
    for number, centre in enumerate(around):
        others = [between(centre, other) for n, other in enumerate(around) if n != number]
        radius = sorted(others)[k - 1]
        held.append([between(point, centre) <= radius for point in points])
    return held


# ---- distances ----------------------------------------------------------------------------------


def test_distances_are_euclidean() -> None:
    found = distances(np.float32([[0, 0], [3, 4]]), np.float32([[0, 0], [6, 8], [3, 0]]))
    assert np.array_equal(found, [[0, 10, 3], [5, 5, 4]])  # squares of small whole numbers
    assert found.dtype == np.float64
    one, other = normal(0, 20), normal(1, 30)
    exact = [[between(a, b) for b in other] for a in one]
    # squares near 10, right to 1e-15 each, and roots above 0.1
    np.testing.assert_allclose(distances(one, other), exact, rtol=0, atol=1e-13)


def test_a_copy_has_no_distance_but_rounding() -> None:
    """Squares of pixels in [0, 1] sum to 64 at most: they cancel to 1e-14, whose root is 1e-7."""
    pixels = np.random.default_rng(0).random((50, 64), np.float32)
    assert np.diag(distances(pixels, pixels)).max() < 1e-6
    assert not np.isnan(distances(pixels, pixels)).any()  # no root of less than nothing


def test_nearest_are_ascending() -> None:
    found = nearest(on_a_line(0, 10), on_a_line(7, 1, -3, 20, 2), count=3)
    assert np.array_equal(found, [[1, 2, 3], [3, 8, 9]])
    assert np.array_equal(nearest(on_a_line(0), on_a_line(4), count=1), [[4]])
    every = nearest(on_a_line(0), on_a_line(7, 1, -3, 20, 2), count=5)
    assert np.array_equal(every, [[1, 2, 3, 7, 20]])


@pytest.mark.parametrize("count", [1, ROWS_AT_ONCE - 1, ROWS_AT_ONCE, ROWS_AT_ONCE + 1, 1100])
def test_parts_cover_every_row_once(count: int) -> None:
    """In parts as in one call; integers, so that rounding cannot hide a wrong row."""
    points = np.random.default_rng(0).integers(0, 50, (count, 3)).astype(np.float32)
    others = np.random.default_rng(1).integers(0, 50, (40, 3)).astype(np.float32)
    whole = np.sort(distances(points, others), axis=1)[:, :4]
    assert np.array_equal(nearest(points, others, count=4), whole)
    in_ball = (distances(points, others) <= nearest(others, others, count=6)[:, -1]).any(axis=1)
    assert precision(points, others) == in_ball.mean()


def test_parts_are_no_larger_than_they_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory: 1,000 points against 10,000 never form one matrix."""
    rows = []

    def counted(points: Features, others: Features) -> neighbours.Distances:
        rows.append(len(points))
        return distances(points, others)

    monkeypatch.setattr(neighbours, "distances", counted)
    nearest(normal(0, 2 * ROWS_AT_ONCE + 1), normal(1, 7), count=1)
    assert sum(rows) == 2 * ROWS_AT_ONCE + 1
    assert max(rows) <= ROWS_AT_ONCE


# ---- precision and recall -----------------------------------------------------------------------


def test_by_hand() -> None:
    """Real images at 0, 1, ... 5: the fifth neighbour is the farthest.

    It is at distance 5 from the ends and 3 from the middle, so the balls cover [-5, 10].
    """
    real, samples = on_a_line(0, 1, 2, 3, 4, 5), on_a_line(6, 7, 8, 9, 10, 100)
    assert precision(samples, real) == 5 / 6  # 100 is far out
    assert recall(samples, real) == 1.0  # for it, everybody's ball has a radius of 90 or more
    near = on_a_line(6, 7, 8, 9, 10, 11)  # radii 5, 4, 3, 3, 4, 5: [1, 16]
    assert precision(near, real) == 5 / 6  # all but 11
    assert recall(near, real) == 5 / 6  # all but 0


def test_the_edge_of_a_ball_is_inside() -> None:
    real = on_a_line(0, 1, 2, 3, 4, 5)
    assert precision(on_a_line(-5, 10, 0, 0, 0, 0), real) == 1.0
    assert precision(on_a_line(-5.001, 10.001, 0, 0, 0, 0), real) == 4 / 6


def test_a_collapsed_generator_is_precise_and_recalls_little() -> None:
    """All samples are near one real image: good quality, no diversity."""
    real = normal(0, 200)
    samples = real[:1] + normal(1, 200, scale=1e-3)
    assert precision(samples, real) == 1.0
    assert recall(samples, real) == 1 / 200  # that image alone


def test_a_generator_of_noise_recalls_by_huge_balls_and_is_not_precise() -> None:
    real, samples = normal(0, 200), normal(1, 200, scale=100)
    assert precision(samples, real) == 0.0
    assert recall(samples, real) > 0.9


def test_roles_exchange() -> None:
    samples, real = normal(0, 40), normal(1, 60, scale=2.0)
    assert precision(samples, real) == recall(real, samples)
    assert recall(samples, real) == precision(real, samples)
    assert precision(samples, real) != recall(samples, real)


def test_a_set_covers_itself() -> None:
    points = normal(0, 30)
    assert precision(points, points.copy()) == recall(points, points.copy()) == 1.0


@pytest.mark.parametrize(("count", "other"), [(6, 6), (20, 33), (33, 20)])
def test_as_the_double_loop(count: int, other: int) -> None:
    samples, real = normal(0, count, 3), normal(1, other, 3, scale=1.3)
    assert precision(samples, real) == covered(samples, real, NEIGHBOURS)
    assert recall(samples, real) == covered(real, samples, NEIGHBOURS)


@pytest.mark.parametrize(("count", "other"), [(6, 6), (200, 150), (150, 200)])
def test_as_torch_fidelity(count: int, other: int) -> None:
    """Its first input is what was generated."""
    metric = pytest.importorskip("torch_fidelity.metric_prc")
    samples, real = normal(0, count, 3), normal(1, other, 3, scale=1.3)
    found = metric.prc_features_to_metric(
        torch.from_numpy(samples).double(),
        torch.from_numpy(real).double(),
        prc_neighborhood=NEIGHBOURS,
        verbose=False,
    )
    # it takes means in float32
    assert precision(samples, real) == pytest.approx(found[metric.KEY_METRIC_PRECISION], rel=1e-6)
    assert recall(samples, real) == pytest.approx(found[metric.KEY_METRIC_RECALL], rel=1e-6)


# ---- density and coverage -----------------------------------------------------------------------


def test_density_and_coverage_by_hand() -> None:
    """Real images at 0, 1, ... 5 have radii 5, 4, 3, 3, 4, 5: 6 is held by those around 3, 4 and 5,
    8.5 by that around 5 alone, 100 by none."""
    real = on_a_line(0, 1, 2, 3, 4, 5)
    assert density(on_a_line(6), real) == 3 / 5
    assert density(on_a_line(8.5, 6, 100), real) == (1 + 3 + 0) / (5 * 3)
    assert coverage(on_a_line(6), real) == 3 / 6
    assert coverage(on_a_line(8.5, 100), real) == 1 / 6
    assert coverage(on_a_line(8.5, 6, 100), real) == 3 / 6
    assert density(on_a_line(-5, 10), real) == 1 / 5  # edges are inside


def test_outliers_among_the_real_are_worth_a_kth_to_density() -> None:
    """The purpose of density: one huge ball would make any noise precise."""
    real = np.concatenate([normal(0, 100), np.full((1, 5), 100, np.float32)])
    noise = 50 + normal(1, 100)
    assert precision(noise, real) == 1.0
    assert density(noise, real) == 1 / 5
    assert coverage(noise, real) == 1 / 101


def test_the_same_distribution_is_dense_and_covers() -> None:
    """The expectations of equations 7 and 8: 1, and 1 less 2^-k for as many samples."""
    found = [(density(a, b), coverage(a, b)) for a, b in
             ((normal(2 * n, 300), normal(2 * n + 1, 300)) for n in range(20))]  # fmt: skip
    dense, covers = np.mean(found, axis=0)
    error = np.std(found, axis=0) / len(found) ** 0.5
    assert abs(dense - 1) < 3 * error[0]
    assert abs(covers - (1 - 2**-5)) < 3 * error[1]


def test_a_collapsed_generator_covers_little() -> None:
    real = normal(0, 200)
    samples = real[:1] + normal(1, 200, scale=1e-3)
    covered_by_one = coverage(samples, real)
    assert 1 / 200 <= covered_by_one < 0.1  # the image's own ball and the few that it lies in
    # nearly all samples are in each of those, but for balls that end at the image
    assert density(samples, real) == pytest.approx(covered_by_one * 200 / 5, abs=2 / 5)


def test_a_memorising_generator_has_everything() -> None:
    """Copies: every ball contains its centre and k others, up to rounding at its edge."""
    real = normal(0, 200)
    samples = real[::-1].copy()
    assert precision(samples, real) == recall(samples, real) == coverage(samples, real) == 1.0
    assert density(samples, real) == pytest.approx(6 / 5, abs=0.2)
    inside = real * np.float32(1 - 1e-5)  # off the edges
    assert precision(inside, real) == recall(inside, real) == coverage(inside, real) == 1.0


@pytest.mark.parametrize("count", [ROWS_AT_ONCE, ROWS_AT_ONCE + 1, 1100])
def test_parts_of_the_reference_keep_their_radii(count: int) -> None:
    """Row by row as one call; whole numbers, so that no rounding can hide a wrong row."""
    samples = np.random.default_rng(0).integers(0, 50, (40, 3)).astype(np.float32)
    real = np.random.default_rng(1).integers(0, 50, (count, 3)).astype(np.float32)
    held = distances(real, samples) <= nearest(real, real, count=6)[:, -1:]
    assert density(samples, real) == held.sum() / (5 * 40)
    assert coverage(samples, real) == held.any(axis=1).mean()


@pytest.mark.parametrize(("count", "other"), [(6, 6), (20, 33), (33, 20)])
def test_density_and_coverage_as_the_double_loop(count: int, other: int) -> None:
    samples, real = normal(0, count, 3), normal(1, other, 3, scale=1.3)
    held = balls(samples, real, NEIGHBOURS)
    assert density(samples, real) == sum(map(sum, held)) / (NEIGHBOURS * count)
    assert coverage(samples, real) == sum(map(any, held)) / other
