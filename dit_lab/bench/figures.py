"""Statistics of repeated timings: percentiles, and ratios of interleaved timings. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

TAIL = 0.1  # share of timings below `low` and above `high`
LEVEL = 0.95  # confidence level of a ratio's interval
BLOCKS = 12  # interleaved blocks of a comparison
ROUNDS = 6  # interleaved blocks of a measurement and its reference


@dataclass(frozen=True, slots=True)
class Timing:
    """Repeated measurements of a quantity: median, 10th and 90th percentile."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Timing:
        ordered = sorted(values)
        cut = int(TAIL * len(ordered))
        return cls(median(ordered), ordered[cut], ordered[-1 - cut], len(ordered))


@dataclass(frozen=True, slots=True)
class Ratio:
    """Ratio of the second time to the first, over interleaved blocks.

    The interval contains the median with 95% confidence for any distribution (order statistics). It
    is None for fewer than six blocks, which are too few for 95%.
    """

    median: float
    interval: tuple[float, float] | None
    blocks: int

    @classmethod
    def of(cls, firsts: Sequence[float], seconds: Sequence[float]) -> Ratio:
        """Return the ratio of paired block times."""
        ratios = sorted(second / first for first, second in zip(firsts, seconds, strict=True))
        outside = _outside(len(ratios))
        ends = None if outside is None else (ratios[outside], ratios[-1 - outside])
        return cls(median(ratios), ends, len(ratios))


@dataclass(frozen=True, slots=True)
class Versus:
    """Times of two alternatives, and the ratio of the second to the first."""

    first: Timing
    second: Timing
    ratio: Ratio


def in_turn(first: Callable[[], float], second: Callable[[], float]) -> Versus:
    """Time two functions in interleaved blocks, in alternating order; both return seconds."""
    firsts, seconds = _alternated(first, second, BLOCKS)
    return Versus(Timing.of(firsts), Timing.of(seconds), Ratio.of(firsts, seconds))


@dataclass(frozen=True, slots=True)
class Turns:
    """Ratio of a time to a reference time over several blocks: median, minimum and maximum."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, measures: Sequence[float], seconds: Sequence[float]) -> Turns:
        """Return the ratios of paired block times."""
        ratios = [second / first for first, second in zip(measures, seconds, strict=True)]
        return cls(median(ratios), min(ratios), max(ratios))


def by_measure(measure: Callable[[], float], block: Callable[[], float]) -> Turns:
    """Return a block's seconds relative to interleaved measurements of a reference."""
    return Turns.of(*_alternated(measure, block, ROUNDS))


def _alternated(
    first: Callable[[], float], second: Callable[[], float], blocks: int
) -> tuple[list[float], list[float]]:
    said: tuple[list[float], list[float]] = [], []
    for block in range(blocks):
        for which in (0, 1) if block % 2 == 0 else (1, 0):
            said[which].append((first, second)[which]())
    return said


def _outside(count: int) -> int | None:
    """Return how many values on each side lie outside the interval of the median."""
    below, total = 0.0, 2.0**count
    for left_out in range(count // 2):
        below += math.comb(count, left_out) / total
        if 2 * below > 1 - LEVEL:
            return left_out - 1 if left_out else None
    return None
