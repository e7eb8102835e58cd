"""Frechet distance between Gaussians fitted to two sets of features, in float64, without sqrtm.

Shapes: N, M images, D features.
"""

from __future__ import annotations

import numpy as np

from dit_lab.evaluation.features import Features


def frechet_distance(first: Features, second: Features) -> float:
    """|m1 - m2|^2 + Tr(S1 + S2 - 2 (S1 S2)^(1/2)) of (N, D) and (M, D), both at least two rows.

    Dowson and Landau, 1982. The trace of the root is the sum of the roots of the eigenvalues of
    S1^(1/2) S2 S1^(1/2), which is symmetric: nothing imaginary arises, and what is negative is
    rounding.
    """
    means, covariances = zip(*(_moments(features) for features in (first, second)), strict=True)
    values, vectors = np.linalg.eigh(covariances[0])
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    cross = np.linalg.eigvalsh(root @ covariances[1] @ root)
    overlap = np.sqrt(np.maximum(cross, 0)).sum()
    traces = np.trace(covariances[0]) + np.trace(covariances[1])
    return float(((means[0] - means[1]) ** 2).sum() + traces - 2 * overlap)


def _moments(features: Features) -> tuple[np.ndarray, np.ndarray]:
    wide = features.astype(np.float64)
    return wide.mean(axis=0), np.cov(wide, rowvar=False)
