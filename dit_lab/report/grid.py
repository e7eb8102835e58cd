"""Configurations as cells of a factorial design, perhaps with holes, and contrasts of them.

Words: an axis is a setting with several values, its levels; a cell is one configuration; a block
is one combination of the levels of all other axes, complete if every cell in it has enough seeds.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dit_lab.report.results import Configuration, Question, Settings
from dit_lab.statistics.contrasts import Array, Family, Weights, common_seeds, estimate, split
from dit_lab.statistics.correction import null_distribution
from dit_lab.statistics.power import detectable_difference

ENOUGH_SEEDS = 3  # two leave one degree of freedom, and an interval 13 standard errors wide

Cell = tuple[str, ...]
"""The levels of some axes in one configuration."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tested:
    """A difference that was tested, in the metric's unit."""

    difference: float
    low: float  # of the simultaneous interval: it excludes 0 where the adjusted p is below alpha
    high: float
    adjusted_p: float  # for all differences of its family
    detectable: float  # smallest true difference that would probably have been found


class Grid:
    """The design: what varies, and against what."""

    def __init__(
        self,
        configurations: Sequence[Configuration],
        axes: Sequence[str],
        baseline: int,
        metric: str,
    ) -> None:
        self.configurations = configurations
        self.axes = axes
        self.baseline = baseline
        self.samples = [configuration.sample for configuration in configurations]
        self.values, self.measured = _values(configurations, metric)
        self.trained = _shared_models(configurations)
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
        if index == reference:
            return ()
        return self.testable(tuple(sorted([(index, 1.0), (reference, -1.0)])))

    def testable(self, contrast: Weights) -> Weights:
        """The contrast; empty where a configuration has too few seeds, or those that share models
        have too few in common."""
        parts = split(contrast, self.trained)
        enough = all(sum(common_seeds(part, self.measured)) >= ENOUGH_SEEDS for part in parts)
        return contrast if enough else ()

    def mean_over(self, blocks: Sequence[Mapping[Cell, int]], signs: Mapping[Cell, int]) -> Weights:
        """The contrast of cells, averaged over blocks; empty if it cannot be tested."""
        return self.testable(
            tuple(
                sorted(
                    (block[cell], sign / len(blocks))
                    for block in blocks
                    for cell, sign in signs.items()
                )
            )
        )

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


def _values(
    configurations: Sequence[Configuration], metric: str
) -> tuple[Array, tuple[tuple[bool, ...], ...]]:
    """(configurations, seeds) of the metric, and where there is one; 0 elsewhere."""
    found = [{run.seed: run.metrics[metric] for run in c.measured} for c in configurations]
    seeds = sorted({seed for of in found for seed in of})
    measured = tuple(tuple(seed in of for seed in seeds) for of in found)
    return np.array([[of.get(seed, 0.0) for seed in seeds] for of in found]), measured


def _shared_models(configurations: Sequence[Configuration]) -> tuple[int, ...]:
    """A number for each configuration, equal where they were measured with the same models."""
    number: dict[str, int] = {}  # of each training
    found: list[int] = []
    for index, configuration in enumerate(configurations):
        trainings = [run.training for run in configuration.measured if run.training]
        known = {number[one] for one in trainings if one in number}
        own = min(known, default=index)
        found = [own if of in known else of for of in found] + [own]
        number = {one: own if of in known else of for one, of in number.items()}
        number.update(dict.fromkeys(trainings, own))
    return tuple(found)


def judge(claims: Iterable[Weights], grid: Grid, question: Question) -> dict[Weights, Tested]:
    """Distinct contrasts as one family: the chance that any of them is falsely claimed is alpha.

    Contrasts without any spread are left out: they cannot be tested.
    """
    asked = tuple(dict.fromkeys(filter(None, claims)))
    if not asked:
        return {}
    family = Family(asked, grid.measured, grid.trained)
    found = estimate(family, grid.values)
    if not found.standard_error.all():
        return judge(itertools.compress(asked, found.standard_error), grid, question)
    null = null_distribution(family)
    critical = null.critical(question.alpha)
    tested = {}
    for n, weights in enumerate(asked):
        difference, half = float(found.estimate[n]), critical * float(found.half_width[n])
        tested[weights] = Tested(
            difference=difference,
            low=difference - half,
            high=difference + half,
            adjusted_p=null.adjusted_p(float(found.ratio[n])),
            detectable=detectable_difference(
                float(found.standard_error[n]),
                float(found.degrees_of_freedom[n]),
                half_width=half,
                power=question.power,
            ),
        )
    return tested
