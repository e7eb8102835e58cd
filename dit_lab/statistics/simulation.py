"""Simulated sweeps, with or without true differences between configurations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike

from dit_lab.statistics.contrasts import Array, Family, Found, estimate

NOISE: Mapping[str, Callable[[Generator, tuple[int, ...]], Array]] = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "t5": lambda rng, shape: rng.standard_t(5, shape) / np.sqrt(5 / 3),
    "lognormal": lambda rng, shape: (
        (np.exp(rng.standard_normal(shape)) - np.exp(0.5)) / np.sqrt((np.e - 1) * np.e)
    ),
}
"""Noise with mean 0 and standard deviation 1. "lognormal" is the exponential of a normal variable,
with skewness 6.
"""

_AT_ONCE = 1_000_000  # numbers in one array


def simulate(
    family: Family,
    deviations: ArrayLike,
    *,
    sweeps: int,
    seed: int,
    noise: str = "normal",
    effects: ArrayLike = 0.0,
) -> Iterator[Found]:
    """Yield the estimates of a family's contrasts in simulated sweeps, in batches of sweeps.

    Args:
        family: the contrasts to estimate.
        deviations: standard deviation of each configuration over seeds.
        sweeps: number of sweeps in total.
        seed: of the random numbers.
        noise: name in NOISE.
        effects: true mean of each configuration.
    """
    rng = np.random.default_rng(seed)
    scale = np.asarray(deviations, dtype=float)[:, None]
    mean = np.broadcast_to(np.asarray(effects, dtype=float), scale.shape[:1])[:, None]
    shape = np.shape(family.measured)
    widest = max(len(family.parts.seeds), shape[0]) * shape[1] + len(family.contrasts)
    most = max(1, _AT_ONCE // widest)
    for start in range(0, sweeps, most):
        values = NOISE[noise](rng, (min(most, sweeps - start), *shape))
        yield estimate(family, mean + scale * values)
