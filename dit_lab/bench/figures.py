"""What repeated timings say: their middle and spread, and the ratio of two that alternated.
Torch-free."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

TAIL = 0.1  # the share of timings that lie on each side of a spread
LEVEL = 0.95  # of the interval of a ratio
BLOCKS = 12  # in which two take turns that are compared
ROUNDS = 6  # in which something and its measure do


@dataclass(frozen=True, slots=True)
class Timing:
    """Repeated measurements of one quantity: the median, the tenth and the ninetieth percentile."""

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
    """How many times the second is as long as the first, over blocks that alternated.

    The interval holds the median with 95% confidence whatever the distribution (order statistics);
    None of fewer than six blocks, which cannot say that.
    """

    median: float
    interval: tuple[float, float] | None
    blocks: int

    @classmethod
    def of(cls, firsts: Sequence[float], seconds: Sequence[float]) -> Ratio:
        """Of the times of blocks, pair by pair."""
        ratios = sorted(second / first for first, second in zip(firsts, seconds, strict=True))
        outside = _outside(len(ratios))
        ends = None if outside is None else (ratios[outside], ratios[-1 - outside])
        return cls(median(ratios), ends, len(ratios))


@dataclass(frozen=True, slots=True)
class Versus:
    """What each of two takes, and the second by the first."""

    first: Timing
    second: Timing
    ratio: Ratio


def in_turn(first: Callable[[], float], second: Callable[[], float]) -> Versus:
    """Seconds that each says, block by block; neither always goes first."""
    firsts, seconds = _alternated(first, second, BLOCKS)
    return Versus(Timing.of(firsts), Timing.of(seconds), Ratio.of(firsts, seconds))


@dataclass(frozen=True, slots=True)
class Turns:
    """How many times as long as its measure something takes: the middle and the ends of several
    turns."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, measures: Sequence[float], seconds: Sequence[float]) -> Turns:
        """Of the times of turns, pair by pair."""
        ratios = [second / first for first, second in zip(measures, seconds, strict=True)]
        return cls(median(ratios), min(ratios), max(ratios))


def by_measure(measure: Callable[[], float], block: Callable[[], float]) -> Turns:
    """A block's seconds by its measure's, which takes turns with it."""
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
    """How many of the least and of the largest values an interval of the median leaves out."""
    below, total = 0.0, 2.0**count
    for left_out in range(count // 2):
        below += math.comb(count, left_out) / total
        if 2 * below > 1 - LEVEL:
            return left_out - 1 if left_out else None
    return None
