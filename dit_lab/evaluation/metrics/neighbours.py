"""Distances between images: precision and recall, density and coverage, and how near samples come
to training images.

Shapes: N, M images, D features.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dit_lab.evaluation.features.extractors import Features, finite

NEIGHBOURS = 5  # k of precision and recall, density and coverage
ROWS_AT_ONCE = 512

Distances = NDArray[np.float64]


def precision(samples: Features, reference: Features) -> float:
    """The share of samples (N, D) within the k-nearest-neighbour ball of some reference image
    (M, D): Kynkaanniemi et al. 2019, equations 1 and 2, arXiv:1904.06991."""
    return _covered(samples, by=reference)


def recall(samples: Features, reference: Features) -> float:
    """The share of reference images (M, D) within the k-nearest-neighbour ball of some sample
    (N, D): the same equations with the roles exchanged."""
    return _covered(reference, by=samples)


def density(samples: Features, reference: Features) -> float:
    """How many k-nearest-neighbour balls of reference images (M, D) a sample (N, D) lies in, over
    k: Naeem et al. 2020, equation 4, arXiv:2002.09797. Near 1 for samples of the same
    distribution, and not bounded by it: copies of the reference have (k + 1) / k."""
    return float(_held(samples, reference).sum() / (NEIGHBOURS * len(samples)))


def coverage(samples: Features, reference: Features) -> float:
    """The share of reference images (M, D) with a sample (N, D) in their k-nearest-neighbour ball:
    equation 5 there."""
    return float((_held(samples, reference) > 0).mean())


def _held(samples: Features, reference: Features) -> NDArray[np.int64]:
    """The number of samples in the ball of each reference image, (M,)."""
    parts, radii = _parts(reference), _radii(reference)
    ends = np.cumsum([len(rows) for rows in parts])[:-1]
    held = [
        (distances(rows, samples) <= radius[:, None]).sum(axis=1)
        for rows, radius in zip(parts, np.split(radii, ends), strict=True)
    ]
    return np.concatenate(held)


def _radii(points: Features) -> Distances:
    """Distances (N,) to the k-th nearest other point; the nearest is the point itself."""
    return nearest(points, points, count=NEIGHBOURS + 1)[:, -1]


def _covered(points: Features, *, by: Features) -> float:
    radii = _radii(by)
    inside = [(distances(rows, by) <= radii).any(axis=1) for rows in _parts(points)]
    return float(np.concatenate(inside).mean())


def nearest(points: Features, others: Features, *, count: int) -> Distances:
    """Distances (N, count) of points (N, D) to their nearest others (M, D), ascending."""
    smallest = [
        np.partition(distances(rows, others), count - 1, axis=1)[:, :count]
        for rows in _parts(points)
    ]
    return np.sort(np.concatenate(smallest), axis=1)


def distances(points: Features, others: Features) -> Distances:
    """Euclidean distances (N, M), up to the rounding of squares in float64."""
    left, right = (finite(side).astype(np.float64) for side in (points, others))
    squares = (left**2).sum(1)[:, None] + (right**2).sum(1)[None, :] - 2 * left @ right.T
    return np.sqrt(np.maximum(squares, 0))


def _parts(points: Features) -> list[Features]:
    return np.array_split(points, max(1, -(-len(points) // ROWS_AT_ONCE)))
