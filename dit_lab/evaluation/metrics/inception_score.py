"""Inception score: confidence of predicted classes and their diversity.

Shapes: N images, K classes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import rel_entr

from dit_lab.evaluation.features.extractors import finite

SPLITS = 10


def inception_score(probabilities: NDArray[np.float64], splits: int = SPLITS) -> float:
    """Return the Inception score of p(y|x) (N, K), N >= `splits`; from 1 to K.

    exp E_x KL(p(y|x) || p(y)), averaged over `splits` consecutive parts, each with its own p(y).

    Source: Salimans et al. 2016, section 4, arXiv:1606.03498.
    """
    count = len(probabilities)
    parts = np.split(
        finite(probabilities).astype(np.float64), [n * count // splits for n in range(1, splits)]
    )
    return float(np.mean([_score(part) for part in parts]))


def _score(part: NDArray[np.float64]) -> float:
    divergences = rel_entr(part, part.mean(axis=0)).sum(axis=1)
    return float(np.exp(divergences.mean()))
