"""Tolerances: how far a metric of one more seed may be from the mean of the recorded seeds.

The variance of a few seeds is a poor estimate: with three seeds, a tolerance for all values of a
grid would be fifty standard deviations wide. But a metric has similar variances in all
configurations of an experiment. So each variance is shrunk towards the others of the same metric,
by as much as these agree (moderated t-statistic: Smyth, Statistical Applications in Genetics and
Molecular Biology 3(1), 2004, sections 4 to 6).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from statistics import fmean, variance

FALSE_ALARMS = 0.05
"""The probability that a run of the same code with another seed is judged different, over all
values of an experiment."""

Number = tuple[str, str]
"""A configuration and a metric."""


def tolerances(values: Mapping[Number, Sequence[float]]) -> dict[Number, float]:
    """Return half the width of the prediction interval of one more seed, for each metric.

    With the same code, the probability that any of the values is outside is at most FALSE_ALARMS
    (Bonferroni). With one seed, tolerances are 0. Fractions of images (names that end in _nCOUNT)
    are not normally distributed near 0 and 1, so their tolerance is at least three images.

    Args:
        values: the values of the recorded seeds, as many for each configuration and metric.
    """
    (count,) = {len(seeds) for seeds in values.values()}
    if count < 2:
        return dict.fromkeys(values, 0.0)
    # the standard deviation of a fraction of images is at least one image
    own = {number: max(variance(of), _image(number) ** 2) for number, of in values.items()}
    moderated = _moderated(own, count - 1)
    found = {}
    for number, (spread, degrees) in moderated.items():
        quantile = _quantile(1 - FALSE_ALARMS / (2 * len(values)), degrees)
        half = quantile * math.sqrt(spread * (1 + 1 / count))
        found[number] = max(half, 3 * _image(number))
    return found


def _image(number: Number) -> float:
    """Return 1 / COUNT for a fraction of COUNT images, and 0 for other metrics."""
    _, found, count = number[1].rpartition("_n")
    return 1 / int(count) if found and count.isdigit() else 0.0


def _moderated(own: Mapping[Number, float], degrees: int) -> dict[Number, tuple[float, float]]:
    """Return the moderated variance and its degrees of freedom for each value.

    The prior of a metric's variances is a scaled inverse chi-squared distribution. Its degrees of
    freedom are estimated from all metrics, and its location from this metric alone, which uses up
    one of the other configurations. The degrees of freedom are capped at those of the remaining
    configurations.
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
    """Return the prior's degrees of freedom, from the variance of log variances within each metric.

    They are infinite if that variance is no larger than expected by chance.
    """
    from scipy.special import polygamma

    free = sum(len(of) - 1 for of in logs)
    if free == 0:
        return math.inf
    excess = sum(variance(of) * (len(of) - 1) for of in logs) / free - polygamma(1, degrees / 2)
    return 2 * _trigamma_inverse(excess) if excess > 0 else math.inf


def _mean_log(degrees: float) -> float:
    """Return the mean of log(X / degrees) for a chi-squared variable X."""
    from scipy.special import digamma

    return float(digamma(degrees / 2) - math.log(degrees / 2)) if math.isfinite(degrees) else 0.0


def _trigamma_inverse(value: float) -> float:
    """Return y > 0 with trigamma(y) = value, by Newton's method on the convex 1 / trigamma.

    Source: Smyth 2004, appendix.
    """
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
    """Return a quantile of Student's t distribution."""
    from scipy.stats import t

    return float(t.ppf(probability, degrees))
