"""Correction for multiple contrasts (single-step max-t, Westfall and Young 1993).

The ratio of a contrast is |estimate| over half of its 95% interval. In a sweep without any true
difference, every claim is false, and one is made if the largest ratio exceeds the critical value.
How often this happens depends on the standard deviations of the configurations, which a few seeds
do not determine. So sweeps are simulated under many patterns of standard deviations, and the
pattern with the most false claims counts (the least favourable case). Values are assumed to be
normal and trainings independent.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from dit_lab.statistics.contrasts import Array, Family
from dit_lab.statistics.simulation import simulate

RATIOS = (1.0, 0.0, 0.3, 0.6, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)
"""Standard deviation of the configuration that is compared most, as a multiple of the others'. Of
1,260 other patterns in 21 families, none led to more than 5.3% false claims (docs/statistics.md).
"""
FEW = (1 / 3, 1 / 8)
"""Fractions of the other configurations that vary, in patterns where only a few do."""
FEW_RATIOS = (0.0, 1.0, 3.0)
SWEEPS = (4_000, 20_000)  # minimum and maximum for each pattern
_WORK = 60_000_000  # numbers to simulate in total, which takes two or three seconds


@dataclass(frozen=True, slots=True)
class NullDistribution:
    """Distribution of the largest ratio in sweeps without any true difference."""

    largest: Array  # (patterns, sweeps), each row ascending

    def adjusted_p(self, ratio: float) -> float:
        """Return the probability that any ratio of the family is as large, for the worst pattern.

        If k of N simulated sweeps are as large: (sqrt(k) + 1)^2 / (N + 1), which is two standard
        errors of the simulation above k / N.
        """
        sweeps = self.largest.shape[1]
        above = max(sweeps - int(np.searchsorted(one, ratio)) for one in self.largest)
        return float(min(1.0, (math.sqrt(above) + 1) ** 2 / (sweeps + 1)))

    def critical(self, alpha: float) -> float:
        """Return the ratio above which the adjusted p-value is below alpha."""
        sweeps = self.largest.shape[1]
        allowed = math.ceil((math.sqrt(alpha * (sweeps + 1)) - 1) ** 2)
        return float(self.largest[:, sweeps - max(1, allowed)].max())


@lru_cache(maxsize=32)
def null_distribution(family: Family) -> NullDistribution:
    """Simulate the null distribution with a fixed seed: equal families have equal distributions."""
    every = list(patterns(family))
    width = max(len(family.parts.seeds), len(family.contrasts)) * len(family.measured[0])
    sweeps = int(np.clip(_WORK // (width * len(every)), *SWEEPS))
    largest = [
        np.concatenate(
            [found.ratio.max(-1) for found in simulate(family, one, sweeps=sweeps, seed=0)]
        )
        for one in every
    ]
    return NullDistribution(np.sort(largest))


def patterns(family: Family) -> Iterator[Array]:
    """Yield standard deviations (configurations,) under which a family has many false claims.

    The configuration that is compared most varies more or less than the others, alone or with all
    that share its models; or only a few of the others vary.
    """
    uses = Counter(index for contrast in family.contrasts for index, _ in contrast)
    centre = max(uses, key=lambda index: uses[index])
    together = [index for index in uses if family.trained[index] == family.trained[centre]]
    several = [together] if 1 < len(together) < len(uses) else []
    ones = np.ones(len(family.measured))
    for chosen, ratio in itertools.product([[centre], *several], RATIOS):
        yield _with(ones, chosen, ratio)
    others = [index for index in uses if index != centre]
    for few in sorted({math.ceil(share * len(others)) for share in FEW} - {len(others)}):
        places = np.linspace(0, len(others) - 1, few).round().astype(int)
        varying = _with(np.zeros_like(ones), [others[place] for place in places], 1)
        for ratio in FEW_RATIOS:
            yield _with(varying, [centre], ratio)


def _with(deviations: Array, chosen: list[int], value: float) -> Array:
    found = deviations.copy()
    found[chosen] = value
    return found
