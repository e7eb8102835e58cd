"""What a comparison would have found."""

from __future__ import annotations

import math


def detectable_difference(
    standard_error: float, degrees_of_freedom: float, *, half_width: float, power: float
) -> float:
    """The smallest true difference whose interval, `half_width` to both sides, excludes 0 on the
    right side with the given power. All in one unit; nan without a standard error.

    The estimate over its standard error is taken as noncentral t (Johnson, Kotz and Balakrishnan
    1995, chapter 31); the noncentrality sought puts `power` above half_width / standard_error. That
    is Cohen's (1988, chapter 2) formula for one comparison of equal deviations. A forecast only as
    good as the deviations given.
    """
    from scipy.special import nctdtrinc

    if standard_error == 0:
        return math.nan
    critical = half_width / standard_error
    return float(nctdtrinc(degrees_of_freedom, 1 - power, critical)) * standard_error
