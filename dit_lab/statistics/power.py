"""Power: the smallest difference that a comparison can detect."""

from __future__ import annotations

import math


def detectable_difference(
    standard_error: float, degrees_of_freedom: float, *, half_width: float, power: float
) -> float:
    """Return the smallest true difference that is detected, with its sign, with a given power.

    It is detected if the interval of the estimate, `half_width` to both sides, excludes 0. The
    estimate divided by its standard error is treated as noncentral t (Johnson, Kotz and
    Balakrishnan 1995, chapter 31); the noncentrality is chosen such that it exceeds half_width /
    standard_error with probability `power`. For one comparison with equal variances this is Cohen's
    (1988, chapter 2) formula. The forecast is only as good as the given standard error.

    Args:
        standard_error: of the estimate; 0 gives nan.
        degrees_of_freedom: of the standard error.
        half_width: of the interval, in the unit of the standard error.
        power: probability of detection, in (0, 1).
    """
    from scipy.special import nctdtrinc

    if standard_error == 0:
        return math.nan
    critical = half_width / standard_error
    return float(nctdtrinc(degrees_of_freedom, 1 - power, critical)) * standard_error
