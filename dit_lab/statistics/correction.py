"""Correction for the number of contrasts: how large the largest of them gets by chance.

The ratio of a contrast is its estimate over half of its 95% interval. In a sweep in which nothing
differs, any claim is false, and there is one where the largest ratio is above the critical value.
How often that is depends on the deviations of the configurations, which nobody knows: a few seeds
tell them badly. So sweeps are simulated under many patterns of deviations, and the pattern with the
most false claims counts (single-step max-t, Westfall and Young 1993, at its least favourable case).
Values are taken to be normal and trainings independent.
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
"""Deviation of the configuration that is compared most, as a multiple of the others'. Of 1,260
other patterns in 21 families none led to more than 5.3% false claims (docs/statistics.md)."""
FEW = (1 / 3, 1 / 8)
"""Share of the other configurations that vary at all, where few do."""
FEW_RATIOS = (0.0, 1.0, 3.0)
SWEEPS = (4_000, 20_000)  # least and most, for each pattern
_WORK = 60_000_000  # numbers to simulate in all, which takes two or three seconds


@dataclass(frozen=True, slots=True)
class NullDistribution:
    """The largest ratio in sweeps in which nothing differs."""

    largest: Array  # (patterns, sweeps), ascending

    def adjusted_p(self, ratio: float) -> float:
        """The chance that any ratio of the family is as large, at the worst pattern.

        Of k such among N simulated sweeps, (sqrt(k) + 1)^2 / (N + 1): two standard errors of the
        simulation above their share.
        """
        sweeps = self.largest.shape[1]
        above = max(sweeps - int(np.searchsorted(one, ratio)) for one in self.largest)
        return float(min(1.0, (math.sqrt(above) + 1) ** 2 / (sweeps + 1)))

    def critical(self, alpha: float) -> float:
        """The ratio above which the adjusted p-value is below alpha."""
        sweeps = self.largest.shape[1]
        allowed = math.ceil((math.sqrt(alpha * (sweeps + 1)) - 1) ** 2)
        return float(self.largest[:, sweeps - max(1, allowed)].max())


@lru_cache(maxsize=32)
def null_distribution(family: Family) -> NullDistribution:
    """By simulation with a fixed seed: equal families have equal distributions."""
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
    """Deviations (configurations,) under which a family has many false claims: the configuration
    that is compared most varies more or less than the others, alone or with all that share its
    models, or few of the others vary."""
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
