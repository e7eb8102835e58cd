"""Mean, standard deviation and confidence interval of a few independent measurements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sample:
    """Summary of independent measurements of one quantity, in its unit."""

    n: int
    mean: float  # nan if n = 0
    sd: float | None  # with n - 1 in the denominator; None if n < 2

    @classmethod
    def of(cls, values: Sequence[float]) -> Sample:
        """Compute mean and standard deviation, correct to rounding.

        Equal values have a standard deviation of exactly 0, where rounding would leave 1e-17.
        """
        n = len(values)
        if n == 0:
            return cls(0, math.nan, None)
        if min(values) == max(values):
            return cls(n, float(values[0]), 0.0 if n > 1 else None)
        mean = math.fsum(values) / n
        return cls(n, mean, math.sqrt(math.fsum((x - mean) ** 2 for x in values) / (n - 1)))

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return the ends of the two-sided confidence interval of the mean.

        By Student's t with n - 1 degrees of freedom; needs at least two measurements.
        """
        from scipy.special import stdtrit

        assert self.sd is not None, "one measurement has no interval"
        half = float(stdtrit(self.n - 1, (1 + level) / 2)) * self.sd / math.sqrt(self.n)
        return self.mean - half, self.mean + half
