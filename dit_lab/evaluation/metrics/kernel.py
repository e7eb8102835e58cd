"""Kernel distance between two sets of features (KID for Inception features), in float64.

Binkowski et al., "Demystifying MMD GANs", 2018, arXiv:1801.01401.

Shapes: N, M images, D features.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dit_lab.evaluation.features.extractors import Features, finite

SUBSETS = 100
SUBSET_IMAGES = 1000


def kernel_distance(first: Features, second: Features, *, seed: int) -> float:
    """Return the unbiased squared MMD of (N, D) and (M, D), N, M >= 2; it may be negative.

    It is the mean over random subsets of both sides, drawn without replacement. If neither side has
    more images than a subset, it is a single estimate from all images, without randomness.
    """
    if max(len(first), len(second)) <= SUBSET_IMAGES:
        return _squared_mmd(first, second)
    draw = np.random.default_rng(seed)
    estimates = [_squared_mmd(_subset(first, draw), _subset(second, draw)) for _ in range(SUBSETS)]
    return float(np.mean(estimates))


def _subset(features: Features, draw: np.random.Generator) -> Features:
    return features[draw.permutation(len(features))[:SUBSET_IMAGES]]


def _squared_mmd(first: Features, second: Features) -> float:
    """Return the unbiased estimate of section 4.

    It is the sum of the mean kernels over pairs within each set, without an image with itself,
    minus twice the mean kernel over pairs across sets.
    """
    within = 0.0
    for features in (finite(first), finite(second)):
        kernel = _kernel(features, features)
        count = len(features)
        within += (kernel.sum() - np.trace(kernel)) / (count * (count - 1))
    return float(within - 2 * _kernel(first, second).mean())


def _kernel(first: Features, second: Features) -> NDArray[np.float64]:
    """Return (x . y / D + 1)^3 for every pair, shape (N, M)."""
    features = first.shape[1]
    return (first.astype(np.float64) @ second.astype(np.float64).T / features + 1) ** 3
