"""How far one more seed may lie from the mean of the recorded ones, without anything being wrong.

Few seeds say little about their spread: of three, a tolerance for all numbers of a grid would be
fifty deviations wide. But a metric is measured for every configuration of an experiment, and their
spreads are alike. So each variance is drawn towards those of the same metric elsewhere, as far as
these agree among themselves (the moderated t-statistic: Smyth, Statistical Applications in Genetics
and Molecular Biology 3(1), 2004, sections 4 to 6).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from statistics import fmean, variance

FALSE_ALARMS = 0.05
"""How often a run of the same code by another seed may be called different, all numbers of an
experiment taken together."""

Number = tuple[str, str]
"""A configuration and a metric."""


def tolerances(values: Mapping[Number, Sequence[float]]) -> dict[Number, float]:
    """Half the prediction interval of one more seed, around the mean of the given ones, such that
    any of the numbers lies outside with FALSE_ALARMS (Bonferroni: at most that). All numbers are of
    the same seeds; one alone has no interval: 0.

    Shares of images, whose names end in _n and their number, are no normal distribution near 0 and
    1: they have three images at least.
    """
    (count,) = {len(seeds) for seeds in values.values()}
    if count < 2:
        return dict.fromkeys(values, 0.0)
    # of a share, one image may be either
    own = {number: max(variance(of), _image(number) ** 2) for number, of in values.items()}
    moderated = _moderated(own, count - 1)
    found = {}
    for number, (spread, degrees) in moderated.items():
        quantile = _quantile(1 - FALSE_ALARMS / (2 * len(values)), degrees)
        half = quantile * math.sqrt(spread * (1 + 1 / count))
        found[number] = max(half, 3 * _image(number))
    return found


def _image(number: Number) -> float:
    """One image of those that a share is of, 0 for other metrics."""
    _, found, count = number[1].rpartition("_n")
    return 1 / int(count) if found and count.isdigit() else 0.0


def _moderated(own: Mapping[Number, float], degrees: int) -> dict[Number, tuple[float, float]]:
    """Variances and their degrees of freedom, drawn towards those of the same metric.

    The prior of a metric's variances is a scaled inverse chi-squared distribution. How narrow it is
    is estimated from all metrics, where it lies from this one alone, which costs one of the other
    configurations; it counts for no more degrees of freedom than the rest of them have.
    """
    logs: dict[str, list[float]] = defaultdict(list)
    for (_, metric), spread in own.items():
        if spread > 0:
            logs[metric].append(math.log(spread) - _mean_log(degrees))
    prior = _prior_degrees([of for of in logs.values() if len(of) > 1], degrees)
    found = {}
    for number, spread in own.items():
        others = len(logs[number[1]]) - 2
        if spread == 0 or others < 1:
            found[number] = (spread, float(degrees))
            continue
        weight = min(prior, others * degrees)
        elsewhere = math.exp(fmean(logs[number[1]]) + _mean_log(prior))
        total = weight + degrees
        found[number] = ((weight * elsewhere + degrees * spread) / total, total)
    return found


def _prior_degrees(logs: Sequence[Sequence[float]], degrees: int) -> float:
    """Of the prior, from the spread of the logarithms within each metric; infinite where that is
    no wider than chance makes it."""
    from scipy.special import polygamma

    free = sum(len(of) - 1 for of in logs)
    if free == 0:
        return math.inf
    excess = sum(variance(of) * (len(of) - 1) for of in logs) / free - polygamma(1, degrees / 2)
    return 2 * _trigamma_inverse(excess) if excess > 0 else math.inf


def _mean_log(degrees: float) -> float:
    """The mean of the logarithm of a chi-squared variable over its degrees of freedom."""
    from scipy.special import digamma

    return float(digamma(degrees / 2) - math.log(degrees / 2)) if math.isfinite(degrees) else 0.0


def _trigamma_inverse(value: float) -> float:
    """y > 0 such that trigamma(y) is the value, by Newton's method on 1 / trigamma, which is convex
    (Smyth 2004, appendix)."""
    from scipy.special import polygamma

    y = 0.5 + 1 / value
    for _ in range(50):
        trigamma = polygamma(1, y)
        step = trigamma * (1 - trigamma / value) / polygamma(2, y)
        y += step
        if -step < 1e-8 * y:
            break
    return float(y)


@cache
def _quantile(probability: float, degrees: float) -> float:
    """Of Student's t."""
    from scipy.stats import t

    return float(t.ppf(probability, degrees))
