"""Frechet distance between Gaussians fitted to two sets of features, in float64, without sqrtm.

Shapes: N, M images, D features, R = min(N, D).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dit_lab.evaluation.features.extractors import Features, finite

Moments = tuple[NDArray[np.float64], NDArray[np.float64]]
"""The mean (D,), and A (R, D) with A^T A the covariance."""


def distance_of_factors(first: Moments, second: Moments) -> float:
    """Return |m1 - m2|^2 + Tr(S1 + S2 - 2 (S1 S2)^(1/2)).

    With S1 = A^T A and S2 = B^T B, Tr (S1 S2)^(1/2) is the sum of the singular values of A B^T, so
    no matrix square root is needed.

    Source: Dowson and Landau 1982.
    """
    (mean, a), (other_mean, b) = first, second
    overlap = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    traces = (a**2).sum() + (b**2).sum()
    return float(((mean - other_mean) ** 2).sum() + traces - 2 * overlap)


def moments(features: Features) -> Moments:
    """Return mean and covariance factor of features (N, D), N >= 2; covariance is over N - 1."""
    wide = finite(features).astype(np.float64)
    mean = wide.mean(axis=0)
    return mean, np.linalg.qr(wide - mean, mode="r") / np.sqrt(len(wide) - 1)
