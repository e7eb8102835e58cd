"""Frechet distance between Gaussians fitted to two sets of features, in float64, without sqrtm.

Shapes: N, M images, D features, R = min(N, D).
"""

from __future__ import annotations

import numpy as np

from dit_lab.evaluation.features import Features


def frechet_distance(first: Features, second: Features) -> float:
    """|m1 - m2|^2 + Tr(S1 + S2 - 2 (S1 S2)^(1/2)) of (N, D) and (M, D), both at least two rows.

    Dowson and Landau, 1982. With S1 = A^T A and S2 = B^T B, the trace of the root is the sum of
    the singular values of A B^T: no root of a matrix is taken, and few images of many features
    cost no D x D matrix.
    """
    (mean, a), (other_mean, b) = (_moments(features) for features in (first, second))
    overlap = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    traces = (a**2).sum() + (b**2).sum()
    return float(((mean - other_mean) ** 2).sum() + traces - 2 * overlap)


def _moments(features: Features) -> tuple[np.ndarray, np.ndarray]:
    """The mean (D,), and A (R, D) with A^T A the sample covariance."""
    wide = features.astype(np.float64)
    mean = wide.mean(axis=0)
    return mean, np.linalg.qr(wide - mean, mode="r") / np.sqrt(len(wide) - 1)
