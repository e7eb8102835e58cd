"""Configurations as cells of a factorial design, perhaps with holes, and contrasts of them.

Words: an axis is a setting with several values, its levels; a cell is one configuration; a block
is one combination of the levels of all other axes, complete if every cell in it has enough seeds.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from dit_lab.sweeps.results import Configuration, Question, Settings
from dit_lab.sweeps.statistics import Sample, contrast, detectable_difference, holm

ENOUGH_SEEDS = 3  # two leave one degree of freedom, and an interval 13 standard errors wide

Weights = tuple[tuple[int, float], ...]
"""A contrast: (index of a configuration, its weight), by index. Equal weights, equal hypothesis."""

Cell = tuple[str, ...]
"""The levels of some axes in one configuration."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tested:
    """A difference that was tested, in the metric's unit."""

    difference: float
    low: float  # of the confidence interval, not widened for the number of comparisons
    high: float
    p_value: float
    adjusted_p: float  # Holm, within its family
    detectable: float  # smallest true difference that would probably have been found


class Grid:
    """The design: what varies, and against what."""

    def __init__(
        self, configurations: Sequence[Configuration], axes: Sequence[str], baseline: int
    ) -> None:
        self.configurations = configurations
        self.axes = axes
        self.baseline = baseline
        self.samples = [configuration.sample for configuration in configurations]
        self.reference = configurations[baseline].settings
        self.levels = {
            axis: list(dict.fromkeys(c.settings[axis] for c in configurations)) for axis in axes
        }

    def others(self, axis: str) -> list[str]:
        """Levels of an axis but the baseline's."""
        return [level for level in self.levels[axis] if level != self.reference[axis]]

    def enough(self, index: int) -> bool:
        return self.samples[index].n >= ENOUGH_SEEDS

    def difference(self, index: int, reference: int) -> Weights:
        """One cell less another; empty where it cannot be tested."""
        if index == reference or not (self.enough(index) and self.enough(reference)):
            return ()
        return tuple(sorted([(index, 1.0), (reference, -1.0)]))

    def blocks(self, *varied: str) -> tuple[list[dict[Cell, int]], int]:
        """Complete blocks, each cell -> index, and how many blocks there are in all."""
        blocks: dict[Cell, dict[Cell, int]] = {}
        for index, configuration in enumerate(self.configurations):
            rest = tuple(configuration.settings[axis] for axis in self.axes if axis not in varied)
            cell = tuple(configuration.settings[axis] for axis in varied)
            blocks.setdefault(rest, {})[cell] = index
        wanted = list(itertools.product(*(self.levels[axis] for axis in varied)))
        complete = [
            cells
            for cells in blocks.values()
            if all(cell in cells and self.enough(cells[cell]) for cell in wanted)
        ]
        return complete, len(blocks)

    def find(self, members: Sequence[Settings]) -> list[int]:
        """Those of some settings that are in the report, in its order."""
        wanted = {frozenset(settings.items()) for settings in members}
        return [
            index
            for index, configuration in enumerate(self.configurations)
            if frozenset(configuration.settings.items()) in wanted
        ]


def mean_over(blocks: Sequence[Mapping[Cell, int]], signs: Mapping[Cell, int]) -> Weights:
    """The contrast of cells, averaged over blocks; empty if there are none."""
    return tuple(
        sorted(
            (block[cell], sign / len(blocks)) for block in blocks for cell, sign in signs.items()
        )
    )


def judge(
    claims: Iterable[Weights],
    samples: Sequence[Sample],
    question: Question,
    *,
    level: float | None = None,
) -> dict[Weights, Tested]:
    """Distinct contrasts as one family, with Holm's correction over all of them.

    Intervals are at `level`, or else at 1 - alpha. Contrasts without any spread are left out:
    they cannot be tested.
    """
    found = {
        weights: contrast((weight, samples[index]) for index, weight in weights)
        for weights in claims
    }
    found = {weights: one for weights, one in found.items() if one.standard_error > 0}
    p_values = [one.p_value for one in found.values()]
    tested = {}
    for (weights, one), p, adjusted in zip(found.items(), p_values, holm(p_values), strict=True):
        low, high = one.interval(1 - question.alpha if level is None else level)
        tested[weights] = Tested(
            difference=one.estimate,
            low=low,
            high=high,
            p_value=p,
            adjusted_p=adjusted,
            detectable=detectable_difference(
                one, alpha=question.alpha, power=question.power, comparisons=len(found)
            ),
        )
    return tested
