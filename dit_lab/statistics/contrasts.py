"""Contrasts between configurations: estimates and standard errors.

A contrast is a weighted sum of configurations' means over training seeds: a difference to a
baseline, a main effect, an interaction. Configurations that were trained separately are treated as
independent, with variances of their own. Configurations that share trained models (two samplers of
one model) are not independent: they are summed for each seed first, and the variance of that sum is
estimated.

A variance that is estimated from few seeds can be too small by chance, which makes any difference
look significant: with three seeds, the standard deviation is below a quarter of the truth in 6% of
cases. So no variance is taken to be smaller than `FLOOR` times the root mean square of all
variances.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Array = NDArray[np.float64]

Weights = tuple[tuple[int, float], ...]
"""A contrast: (index of a configuration, its weight), sorted by index, so that equal hypotheses
have equal weights."""

FLOOR = 0.25
"""Smallest variance, as a fraction of the root mean square of the variances: no standard deviation
is taken to be below half of the typical one. A larger value detects more if all variances are
alike, and less if one is large; `tests/measure/error_rates.py` compares values.
"""

ZERO_VARIANCE = 1e-12
"""Standard deviations below this fraction of the largest value are rounding errors."""


@dataclass(frozen=True)
class Family:
    """Contrasts that are tested together. Hashable: equal families have equal error rates."""

    contrasts: tuple[Weights, ...]
    measured: tuple[tuple[bool, ...], ...]  # per configuration: which seeds have a value
    trained: tuple[int, ...]  # equal numbers: configurations that share trained models

    @cached_property
    def parts(self) -> Parts:
        """The independent parts of all contrasts, without duplicates."""
        every = [
            [self._scaled(part) for part in split(contrast, self.trained)]
            for contrast in self.contrasts
        ]
        order = {part: n for n, part in enumerate(dict.fromkeys(p for of in every for p, _ in of))}
        return Parts(
            sums=_sparse([dict(part) for part in order], len(self.measured)),
            seeds=np.array([common_seeds(part, self.measured) for part in order]),
            share=_sparse([{order[part]: f for part, f in of} for of in every], len(order)),
        )

    @staticmethod
    def _scaled(part: Weights) -> tuple[Weights, float]:
        """Scale a part to length 1 and a positive first weight; return it and the factor removed.

        Equal parts of different contrasts become equal.
        """
        factor = math.copysign(math.hypot(*(weight for _, weight in part)), part[0][1])
        return tuple((index, round(weight / factor, 15)) for index, weight in part), factor


def split(contrast: Weights, trained: Sequence[int]) -> list[Weights]:
    """Split a contrast into independent parts: configurations that share trained models."""
    parts: dict[int, list[tuple[int, float]]] = {}
    for index, weight in contrast:
        parts.setdefault(trained[index], []).append((index, weight))
    return [tuple(part) for part in parts.values()]


def common_seeds(part: Weights, measured: Sequence[Sequence[bool]]) -> list[bool]:
    """Return, for each seed, whether all configurations of a part have a value."""
    return [all(of) for of in zip(*(measured[index] for index, _ in part), strict=True)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Independent weighted sums of configurations."""

    sums: csr_array  # (parts, configurations): weights
    seeds: NDArray[np.bool_]  # (parts, seeds): which are used
    share: csr_array  # (contrasts, parts): factors


def _sparse(rows: Sequence[Mapping[int, float]], columns: int) -> csr_array:
    from scipy.sparse import csr_array

    places = [(row, column) for row, of in enumerate(rows) for column in of]
    values = [value for of in rows for value in of.values()]
    return csr_array((values, np.transpose(places)), shape=(len(rows), columns))


@dataclass(frozen=True, slots=True)
class Found:
    """Estimates of contrasts; every array has shape (..., contrasts)."""

    estimate: Array
    standard_error: Array  # 0 if no value varies: there is no test
    degrees_of_freedom: Array

    @property
    def ratio(self) -> Array:
        """|estimate| / half-width of the uncorrected 95% interval; 0 without a test."""
        half = self.half_width
        return np.divide(np.abs(self.estimate), half, out=np.zeros_like(half), where=half > 0)

    @property
    def half_width(self) -> Array:
        """Half-width of the uncorrected 95% interval of each contrast."""
        return quantile(self.degrees_of_freedom) * self.standard_error


def estimate(family: Family, values: Array) -> Found:
    """Estimate every contrast of the family.

    SE^2 = sum v_i with v_i = f_i^2 max(s_i^2, floor) / n_i over its parts, and the degrees of
    freedom are SE^4 / sum (v_i^2 / (n_i - 1)) (Satterthwaite 1946, Welch 1947).

    Args:
        family: the contrasts; each of their parts needs at least two seeds.
        values: (..., configurations, seeds), with any finite number where nothing was measured.
    """
    parts, batch = family.parts, values.shape[:-2]
    n = parts.seeds.sum(1)[:, None]
    # Shapes from here on: (parts, seeds, sweeps) or (parts, sweeps)
    flat = np.moveaxis(values.reshape(-1, *values.shape[-2:]), 0, 2)
    sums = (parts.sums @ flat.reshape(len(flat), -1)).reshape(len(n), *flat.shape[1:])
    used = parts.seeds[..., None]
    mean = (sums * used).sum(1) / n
    variance = (((sums - mean[:, None]) * used) ** 2).sum(1) / (n - 1)
    variance[variance <= (ZERO_VARIANCE * np.abs(flat).max((0, 1))) ** 2] = 0
    error = np.maximum(variance, FLOOR * np.sqrt((variance**2).mean(0))) / n
    squares = parts.share.power(2)
    varies = squares @ variance > 0
    squared = squares @ error  # of the contrasts' standard errors
    free = squares.power(2) @ (error**2 / (n - 1))
    degrees = np.divide(squared**2, free, out=np.full_like(free, np.nan), where=varies & (free > 0))

    def shaped(found: Array) -> Array:
        return found.T.reshape(*batch, -1)

    return Found(shaped(parts.share @ mean), shaped(np.sqrt(squared) * varies), shaped(degrees))


def quantile(degrees: Array) -> Array:
    """Return the 97.5% quantile of Student's t, by interpolation; relative error below 1e-5."""
    table = _quantiles()
    at = np.clip(1 / degrees, 0, 1) * (len(table) - 1)
    lower = np.nan_to_num(at).astype(int).clip(0, len(table) - 2)
    found: Array = table[lower] + (at - lower) * (table[lower + 1] - table[lower])
    return found


@cache
def _quantiles() -> Array:
    from scipy.special import ndtri, stdtrit

    inverse = np.arange(1, 4097) / 4096
    return np.concatenate([[ndtri(0.975)], stdtrit(1 / inverse, 0.975)])
