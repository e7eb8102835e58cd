"""Precision, recall and nearest distances: by hand on a line, and against a double loop."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dit_lab.evaluation import neighbours
from dit_lab.evaluation.features import Features
from dit_lab.evaluation.neighbours import (
    NEIGHBOURS,
    ROWS_AT_ONCE,
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
    """Their distance, from Python's own numbers."""
    return math.dist(one.tolist(), other.tolist())


def covered(points: Features, by: Features, k: int) -> float:
    """Kynkaanniemi's equations 1 and 2, word by word."""
    inside = 0
    for point in points:
        for number, centre in enumerate(by):
            others = [between(centre, other) for n, other in enumerate(by) if n != number]
            if between(point, centre) <= sorted(others)[k - 1]:
                inside += 1
                break
    return inside / len(points)


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
    """Row by row as one call; whole numbers, so that no rounding can hide a wrong row."""
    points = np.random.default_rng(0).integers(0, 50, (count, 3)).astype(np.float32)
    others = np.random.default_rng(1).integers(0, 50, (40, 3)).astype(np.float32)
    whole = np.sort(distances(points, others), axis=1)[:, :4]
    assert np.array_equal(nearest(points, others, count=4), whole)
    in_ball = (distances(points, others) <= nearest(others, others, count=6)[:, -1]).any(axis=1)
    assert precision(points, others) == in_ball.mean()


def test_parts_are_no_larger_than_they_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory: a thousand points against ten thousand never make one matrix."""
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
    """Real images at 0, 1, ... 5: the fifth neighbour, here the farthest, is 5 away from the ends
    and 3 from the middle ones, so their balls cover [-5, 10]."""
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
    """All samples near one real image: good pictures, all the same."""
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
