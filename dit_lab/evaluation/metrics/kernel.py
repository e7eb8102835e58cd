"""Kernel distance between two sets of features (KID where they are Inception's), in float64.

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
    """Unbiased squared MMD of (N, D) and (M, D), at least two rows each; below 0 by chance.

    The mean over subsets of each side, drawn without replacement; where neither side has more
    images than a subset, the one estimate from all of them, which needs no seed.
    """
    if max(len(first), len(second)) <= SUBSET_IMAGES:
        return _squared_mmd(first, second)
    draw = np.random.default_rng(seed)
    estimates = [_squared_mmd(_subset(first, draw), _subset(second, draw)) for _ in range(SUBSETS)]
    return float(np.mean(estimates))


def _subset(features: Features, draw: np.random.Generator) -> Features:
    return features[draw.permutation(len(features))[:SUBSET_IMAGES]]


def _squared_mmd(first: Features, second: Features) -> float:
    """Section 4: means of the kernel over pairs within each set, an image with itself left out,
    less twice the mean over pairs across."""
    within = 0.0
    for features in (finite(first), finite(second)):
        kernel = _kernel(features, features)
        count = len(features)
        within += (kernel.sum() - np.trace(kernel)) / (count * (count - 1))
    return float(within - 2 * _kernel(first, second).mean())


def _kernel(first: Features, second: Features) -> NDArray[np.float64]:
    """(x . y / D + 1)^3 of every pair, (N, M)."""
    features = first.shape[1]
    return (first.astype(np.float64) @ second.astype(np.float64).T / features + 1) ** 3
