"""Nearest-neighbour metrics: precision, recall, density, coverage, distances.

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
    """Return the share of samples (N, D) in the k-NN ball of some reference image (M, D).

    Source: Kynkaanniemi et al. 2019, equations 1 and 2, arXiv:1904.06991.
    """
    return _covered(samples, by=reference)


def recall(samples: Features, reference: Features) -> float:
    """Return the share of reference images (M, D) in the k-NN ball of some sample (N, D).

    Source: the equations of `precision`, with samples and reference exchanged.
    """
    return _covered(reference, by=samples)


def density(samples: Features, reference: Features) -> float:
    """Return the mean number of reference images' k-NN balls that contain a sample, divided by k.

    It is near 1 if samples (N, D) and reference (M, D) have the same distribution, but can exceed
    1: copies of the reference give (k + 1) / k.

    Source: Naeem et al. 2020, equation 4, arXiv:2002.09797.
    """
    return float(_held(samples, reference).sum() / (NEIGHBOURS * len(samples)))


def coverage(samples: Features, reference: Features) -> float:
    """Return the share of reference images (M, D) with a sample (N, D) in their k-NN ball.

    Source: Naeem et al. 2020, equation 5.
    """
    return float((_held(samples, reference) > 0).mean())


def _held(samples: Features, reference: Features) -> NDArray[np.int64]:
    """Return the number of samples in the k-NN ball of each reference image, (M,)."""
    parts, radii = _parts(reference), _radii(reference)
    ends = np.cumsum([len(rows) for rows in parts])[:-1]
    held = [
        (distances(rows, samples) <= radius[:, None]).sum(axis=1)
        for rows, radius in zip(parts, np.split(radii, ends), strict=True)
    ]
    return np.concatenate(held)


def _radii(points: Features) -> Distances:
    """Return distances (N,) to the k-th nearest other point; the nearest is the point itself."""
    return nearest(points, points, count=NEIGHBOURS + 1)[:, -1]


def _covered(points: Features, *, by: Features) -> float:
    radii = _radii(by)
    inside = [(distances(rows, by) <= radii).any(axis=1) for rows in _parts(points)]
    return float(np.concatenate(inside).mean())


def nearest(points: Features, others: Features, *, count: int) -> Distances:
    """Return distances (N, count) of points (N, D) to their nearest others (M, D), ascending."""
    smallest = [
        np.partition(distances(rows, others), count - 1, axis=1)[:, :count]
        for rows in _parts(points)
    ]
    return np.sort(np.concatenate(smallest), axis=1)


def distances(points: Features, others: Features) -> Distances:
    """Return Euclidean distances (N, M), computed from squares in float64."""
    left, right = (finite(side).astype(np.float64) for side in (points, others))
    squares = (left**2).sum(1)[:, None] + (right**2).sum(1)[None, :] - 2 * left @ right.T
    return np.sqrt(np.maximum(squares, 0))


def _parts(points: Features) -> list[Features]:
    return np.array_split(points, max(1, -(-len(points) // ROWS_AT_ONCE)))
