"""The Frechet distance from features or statistics in one call, for tests."""

from __future__ import annotations

import numpy as np

from dit_lab.evaluation.features.extractors import Features
from dit_lab.evaluation.features.statistics import Statistics, factored
from dit_lab.evaluation.metrics.frechet import distance_of_factors, moments


def frechet_distance(first: Features, second: Features) -> float:
    """The distance of (N, D) and (M, D) features, at least two rows each."""
    return distance_of_factors(moments(first), moments(second))


def frechet_between(first: Statistics, second: Statistics) -> float:
    """The distance of two Gaussians; covariances may be singular."""
    return distance_of_factors(factored(first), factored(second))


def statistics_of(features: Features) -> Statistics:
    """Mean and covariance of (N, D) features by numpy, N at least 2, in float64."""
    wide = features.astype(np.float64)
    return Statistics(wide.mean(axis=0), np.atleast_2d(np.cov(wide, rowvar=False)))
