"""Configurations as cells of a factorial design, possibly incomplete, and contrasts of them.

An axis is a setting with several values, its levels. A cell is one combination of levels. A block
is one combination of the levels of all other axes; it is complete if every cell in it has enough
seeds.

An axis may be set in some configurations only, such as objective.min_snr_gamma, which only
objective=ddpm has. Its blocks are those in which it is set. It is nested in an axis of which some
levels have it and others do not: a cell of that axis is then the mean over the values of the
nested axis. Cells that cannot exist do not count as missing.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dit_lab.report.results import NOT_SET, AnalysisRequest, Configuration, Settings
from dit_lab.statistics.contrasts import Array, Family, Weights, common_seeds, estimate, split
from dit_lab.statistics.correction import null_distribution
from dit_lab.statistics.power import detectable_difference

MIN_SEEDS = 3  # two leave one degree of freedom: an interval of ± 13 standard errors

Cell = tuple[str, ...]
"""The levels of some axes in one configuration."""

Block = Mapping[Cell, Sequence[int]]
"""Cell -> the indices of its configurations, whose mean is the value of the cell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """The blocks within which the levels of some axes are compared."""

    complete: Sequence[Block]
    total: int  # number of blocks, complete or not
    levels: tuple[list[str], ...]  # of each compared axis, where all of them are set
    references: Cell  # the baseline's level of each axis; the first level if it has none
    nested: tuple[str, ...]  # other axes, over whose values each cell is averaged

    def others(self, axis: int) -> list[str]:
        """Return the levels of the compared axis at this index, without the reference level."""
        return [level for level in self.levels[axis] if level != self.references[axis]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ContrastResult:
    """The result of testing one difference, in the metric's unit."""

    difference: float
    low: float  # of the simultaneous interval, which excludes 0 if adjusted_p is below alpha
    high: float
    adjusted_p: float  # for all differences of the family
    detectable: float  # smallest true difference that is found with the power of the question

    @property
    def reversed(self) -> ContrastResult:
        """The same difference with its sides exchanged."""
        return replace(self, difference=-self.difference, low=-self.high, high=-self.low)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A contrast that is averaged over blocks, before it is tested."""

    weights: Weights  # empty if it cannot be tested
    blocks: int  # number of complete blocks
    of_blocks: int  # number of all blocks
    nested: tuple[str, ...]  # axes over whose values each side is averaged


class Grid:
    """The factorial design: its configurations, axes and baseline, and the values of the metric."""

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

    def enough(self, index: int) -> bool:
        return self.samples[index].n >= MIN_SEEDS

    def difference(self, index: int, reference: int) -> Weights:
        """Return the contrast of one configuration minus another; empty if it cannot be tested."""
        if index == reference:
            return ()
        return self.testable(tuple(sorted([(index, 1.0), (reference, -1.0)])))

    def testable(self, contrast: Weights) -> Weights:
        """Return the contrast, or an empty one if it has too few seeds.

        Each configuration needs ENOUGH_SEEDS; configurations that share models need them in common.
        """
        parts = split(contrast, self.trained)
        enough = all(sum(common_seeds(part, self.measured)) >= MIN_SEEDS for part in parts)
        return contrast if enough else ()

    def mean_over(self, blocks: Sequence[Block], signs: Mapping[Cell, int]) -> Weights:
        """Return the contrast of cells, averaged over blocks; empty if it cannot be tested."""
        return self.testable(
            tuple(
                sorted(
                    (member, sign / len(blocks) / len(block[cell]))
                    for block in blocks
                    for cell, sign in signs.items()
                    for member in block[cell]
                )
            )
        )

    def blocks(self, *varied: str) -> Blocks:
        """Return the blocks of some axes: all combinations of the levels of the other axes."""
        of_cells: dict[Cell, list[int]] = {}
        for index, configuration in enumerate(self.configurations):
            cell = tuple(configuration.settings[axis] for axis in varied)
            if NOT_SET not in cell:
                of_cells.setdefault(cell, []).append(index)
        levels = tuple(list(dict.fromkeys(of)) for of in zip(*of_cells, strict=True))
        others = [axis for axis in self.axes if axis not in varied]
        nested = [axis for axis in others if self._is_nested(axis, of_cells.values())]
        around = [axis for axis in others if axis not in nested]
        within = {
            cell: {self._cell(index, nested) for index in members}
            for cell, members in of_cells.items()
        }
        blocks: dict[Cell, dict[Cell, list[int]]] = {}
        for cell, members in of_cells.items():
            for index in members:
                blocks.setdefault(self._cell(index, around), {}).setdefault(cell, []).append(index)
        wanted = list(itertools.product(*levels))
        complete = [
            block
            for block in blocks.values()
            if all(
                cell in block
                and len(block[cell]) == len(within[cell])
                and all(map(self.enough, block[cell]))
                for cell in wanted
            )
        ]
        settings = self.configurations[self.baseline].settings
        references = tuple(
            settings[axis] if settings[axis] in known else known[0]
            for axis, known in zip(varied, levels, strict=False)
        )
        return Blocks(
            complete=complete,
            total=len(blocks),
            levels=levels or tuple([] for _ in varied),
            references=references,
            nested=tuple(nested),
        )

    def _cell(self, index: int, axes: Sequence[str]) -> Cell:
        settings = self.configurations[index].settings
        return tuple(settings[axis] for axis in axes)

    def _is_nested(self, axis: str, cells: Iterable[Sequence[int]]) -> bool:
        """Return whether the axis is set in some of the cells and in none of the others."""
        has = {
            any(self.configurations[index].settings[axis] != NOT_SET for index in members)
            for members in cells
        }
        return len(has) == 2

    def find(self, members: Sequence[Settings]) -> list[int]:
        """Return the indices of the configurations with the given settings, in report order."""
        wanted = {frozenset(settings.items()) for settings in members}
        return [
            index
            for index, configuration in enumerate(self.configurations)
            if frozenset(configuration.settings.items()) in wanted
        ]


def _values(
    configurations: Sequence[Configuration], metric: str
) -> tuple[Array, tuple[tuple[bool, ...], ...]]:
    """Return the metric (configurations, seeds), 0 where missing, and which values exist."""
    found = [{run.seed: run.metrics[metric] for run in c.measured} for c in configurations]
    seeds = sorted({seed for of in found for seed in of})
    measured = tuple(tuple(seed in of for seed in seeds) for of in found)
    return np.array([[of.get(seed, 0.0) for seed in seeds] for of in found]), measured


def _shared_models(configurations: Sequence[Configuration]) -> tuple[int, ...]:
    """Return a number for each configuration, equal if configurations share trained models."""
    number: dict[str, int] = {}  # training -> number
    found: list[int] = []
    for index, configuration in enumerate(configurations):
        trainings = [run.training for run in configuration.measured if run.training]
        known = {number[one] for one in trainings if one in number}
        own = min(known, default=index)
        found = [own if of in known else of for of in found] + [own]
        number = {one: own if of in known else of for one, of in number.items()}
        number.update(dict.fromkeys(trainings, own))
    return tuple(found)


def judge(
    claims: Iterable[Weights], grid: Grid, question: AnalysisRequest
) -> dict[Weights, ContrastResult]:
    """Test contrasts as one family, with a family-wise error rate of alpha.

    Contrasts without any spread cannot be tested and are left out. A contrast and its reverse are
    one hypothesis.
    """
    asked = dict.fromkeys(filter(None, claims))
    once: dict[Weights, None] = {}
    for weights in asked:
        if reverse(weights) not in once:
            once[weights] = None
    tested = _judged(tuple(once), grid, question)
    turned = {w: tested[reverse(w)].reversed for w in asked if reverse(w) in tested}
    return {**turned, **tested}


def reverse(contrast: Weights) -> Weights:
    """Return the contrast with its sides exchanged."""
    return tuple((index, -weight) for index, weight in contrast)


def hypotheses(family: Iterable[Weights]) -> int:
    """Return the number of hypotheses; a contrast and its reverse are one."""
    return len({min(weights, reverse(weights)) for weights in family})


def _judged(
    asked: tuple[Weights, ...], grid: Grid, question: AnalysisRequest
) -> dict[Weights, ContrastResult]:
    if not asked:
        return {}
    family = Family(asked, grid.measured, grid.trained)
    found = estimate(family, grid.values)
    if not found.standard_error.all():
        with_spread = tuple(itertools.compress(asked, found.standard_error))
        return _judged(with_spread, grid, question)
    null = null_distribution(family)
    critical = null.critical(question.alpha)
    tested = {}
    for n, weights in enumerate(asked):
        difference, half = float(found.estimate[n]), critical * float(found.half_width[n])
        tested[weights] = ContrastResult(
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
