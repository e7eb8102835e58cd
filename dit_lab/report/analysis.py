"""The runs of a sweep as an answer: which configuration is better, by how much, how surely.

Axes, levels, cells and blocks are what `grid` says they are.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from dit_lab.report.flags import flags
from dit_lab.report.grid import Cell, Grid, Tested, judge
from dit_lab.report.results import (
    Configuration,
    Question,
    Result,
    differing,
    find_baseline,
    group,
)
from dit_lab.statistics.contrasts import Weights

Asked = tuple[Weights, int, int]
"""A contrast over blocks (empty: none is complete), complete blocks, all blocks."""


class Verdict(StrEnum):
    BASELINE = "baseline"
    BETTER = "better"
    WORSE = "worse"
    NOT_SHOWN = "no difference shown"
    FEW_SEEDS = "not enough seeds"
    NO_SPREAD = "no spread between seeds"  # nothing to hold a difference against


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One configuration against the baseline."""

    verdict: Verdict
    difference: float | None = None  # None if either has no number
    tested: Tested | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """One level of an axis against the reference level, averaged over complete blocks."""

    axis: str
    level: str
    reference: str
    verdict: Verdict
    tested: Tested | None
    blocks: int  # complete: enough seeds at every level of the axis
    of_blocks: int
    depends_on: tuple[str, ...] = ()  # axes that it interacts with: the average hides something


@dataclass(frozen=True, slots=True, kw_only=True)
class Interaction:
    """How far the effect of one axis changes with another, averaged over complete blocks."""

    axes: tuple[str, str]
    levels: tuple[str, str]
    references: tuple[str, str]
    tested: Tested
    flagged: bool
    blocks: int
    of_blocks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Two configurations that should agree."""

    first: Configuration
    second: Configuration
    reason: str
    tested: Tested | None = None  # None: not enough seeds, or no spread
    agrees: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ablation:
    """The whole answer. `configurations` and `comparisons` go together, in order of appearance."""

    question: Question
    axes: tuple[str, ...]
    configurations: tuple[Configuration, ...]
    baseline: Configuration
    comparisons: tuple[Comparison, ...]
    effects: tuple[Effect, ...]  # none where there is one axis: they would repeat the comparisons
    interactions: tuple[Interaction, ...]
    untested_pairs: tuple[tuple[str, str], ...]  # of axes, for want of a complete block
    agreements: tuple[Agreement, ...]
    family: int  # comparisons and effects that are corrected together
    flags: tuple[str, ...]  # what is wrong with the comparison as a whole


def analyse(results: Sequence[Result], question: Question) -> Ablation:
    """Every configuration against the baseline, and every axis over the others.

    All claims against the baseline and along axes are one family, each hypothesis once: the chance
    of any false one is alpha. Interactions are a family of their own, and so are agreements.
    RequestError for a metric or baseline that is not there, and for seeds that are twice.
    """
    configurations = group(results, question)
    axes = differing(configurations)
    baseline = find_baseline(configurations, question.baseline, axes)
    grid = Grid(configurations, axes, baseline, question.metric)

    rows = [grid.difference(index, baseline) for index in range(len(configurations))]
    along = _axis_contrasts(grid) if len(axes) > 1 else {}
    family = judge((*rows, *(weights for weights, _, _ in along.values())), grid, question)
    interactions, untested = _interactions(grid, question)
    return Ablation(
        question=question,
        axes=axes,
        configurations=configurations,
        baseline=configurations[baseline],
        comparisons=tuple(
            _comparison(grid, index, rows[index], family, question)
            for index in range(len(configurations))
        ),
        effects=tuple(
            _effect(grid, axis, level, asked, family, interactions, question)
            for (axis, level), asked in along.items()
        ),
        interactions=interactions,
        untested_pairs=untested,
        agreements=_agreements(grid, question),
        family=len(family),
        flags=flags(configurations, axes),
    )


def _verdict(tested: Tested | None, question: Question) -> Verdict:
    if tested is None:
        return Verdict.NO_SPREAD
    if tested.adjusted_p >= question.alpha:
        return Verdict.NOT_SHOWN
    return Verdict.BETTER if (tested.difference < 0) == question.lower_is_better else Verdict.WORSE


# ---- against the baseline -----------------------------------------------------------------------


def _comparison(
    grid: Grid,
    index: int,
    weights: Weights,
    family: Mapping[Weights, Tested],
    question: Question,
) -> Comparison:
    if index == grid.baseline:
        return Comparison(verdict=Verdict.BASELINE)
    one, base = grid.samples[index], grid.samples[grid.baseline]
    apart = one.mean - base.mean if one.n and base.n else None
    if not weights:
        return Comparison(verdict=Verdict.FEW_SEEDS, difference=apart)
    tested = family.get(weights)
    return Comparison(
        verdict=_verdict(tested, question),
        difference=tested.difference if tested else apart,  # by the seeds that were compared
        tested=tested,
    )


# ---- along axes ---------------------------------------------------------------------------------


def _axis_contrasts(grid: Grid) -> dict[tuple[str, str], Asked]:
    """(axis, level) -> its mean difference to the reference level."""
    asked = {}
    for axis in grid.axes:
        blocks, total = grid.blocks(axis)
        for level in grid.others(axis):
            weights = grid.mean_over(blocks, {(level,): 1, (grid.reference[axis],): -1})
            asked[axis, level] = weights, len(blocks), total
    return asked


def _effect(
    grid: Grid,
    axis: str,
    level: str,
    asked: Asked,
    family: Mapping[Weights, Tested],
    interactions: Sequence[Interaction],
    question: Question,
) -> Effect:
    weights, blocks, total = asked
    tested = family.get(weights)
    partners = (set(one.axes) - {axis} for one in interactions if one.flagged and axis in one.axes)
    return Effect(
        axis=axis,
        level=level,
        reference=grid.reference[axis],
        verdict=_verdict(tested, question) if weights else Verdict.FEW_SEEDS,
        tested=tested,
        blocks=blocks,
        of_blocks=total,
        depends_on=tuple(sorted(set().union(*partners))),
    )


def _interactions(
    grid: Grid, question: Question
) -> tuple[tuple[Interaction, ...], tuple[tuple[str, str], ...]]:
    """Contrasts of contrasts of every pair of axes, and the pairs without a complete block."""
    asked: dict[tuple[tuple[str, str], tuple[str, str]], Asked] = {}
    untested = []
    for one, other in itertools.combinations(grid.axes, 2):
        blocks, total = grid.blocks(one, other)
        if not blocks:
            untested.append((one, other))
            continue
        a, b = grid.reference[one], grid.reference[other]
        for level, beside in itertools.product(grid.others(one), grid.others(other)):
            signs: dict[Cell, int] = {
                (level, beside): 1,
                (a, beside): -1,
                (level, b): -1,
                (a, b): 1,
            }
            weights = grid.mean_over(blocks, signs)
            asked[(one, other), (level, beside)] = weights, len(blocks), total
    family = judge((weights for weights, _, _ in asked.values()), grid, question)
    found = tuple(
        Interaction(
            axes=axes,
            levels=levels,
            references=(grid.reference[axes[0]], grid.reference[axes[1]]),
            tested=family[weights],
            flagged=family[weights].adjusted_p < question.alpha,
            blocks=blocks,
            of_blocks=total,
        )
        for (axes, levels), (weights, blocks, total) in asked.items()
        if weights in family
    )
    return found, tuple(untested)


# ---- expected agreements ------------------------------------------------------------------------


def _agreements(grid: Grid, question: Question) -> tuple[Agreement, ...]:
    """Pairs that should agree, the first of each expectation with every other one. They do where
    the simultaneous interval of their difference contains 0."""
    pairs = [
        (first, other, expectation.reason)
        for expectation in question.expected_equal
        for members in [grid.find(expectation.members)]
        for first, other in itertools.product(members[:1], members[1:])
    ]
    asked = [grid.difference(other, first) for first, other, _ in pairs]
    family = judge(asked, grid, question)
    return tuple(
        Agreement(
            first=grid.configurations[first],
            second=grid.configurations[other],
            reason=reason,
            tested=tested,
            agrees=None if tested is None else tested.low <= 0 <= tested.high,
        )
        for (first, other, reason), weights in zip(pairs, asked, strict=True)
        for tested in [family.get(weights)]
    )
