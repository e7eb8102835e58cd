"""A sample of a few independent measurements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sample:
    """Independent measurements of one quantity, in its unit."""

    n: int
    mean: float  # nan if n = 0
    sd: float | None  # with n - 1 in the denominator; None if n < 2

    @classmethod
    def of(cls, values: Sequence[float]) -> Sample:
        """Mean and standard deviation, right to rounding; equal values have a deviation of exactly
        0, where rounding of their mean would leave 1e-17."""
        n = len(values)
        if n == 0:
            return cls(0, math.nan, None)
        if min(values) == max(values):
            return cls(n, float(values[0]), 0.0 if n > 1 else None)
        mean = math.fsum(values) / n
        return cls(n, mean, math.sqrt(math.fsum((x - mean) ** 2 for x in values) / (n - 1)))

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Ends of the two-sided confidence interval of the mean, by Student's t with n - 1 degrees
        of freedom. Takes two measurements."""
        from scipy.special import stdtrit

        assert self.sd is not None, "one measurement has no interval"
        half = float(stdtrit(self.n - 1, (1 + level) / 2)) * self.sd / math.sqrt(self.n)
        return self.mean - half, self.mean + half
