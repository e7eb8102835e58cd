"""Analysis of a sweep: which configuration is better, by how much, and with which confidence.

`grid` defines axes, levels, cells and blocks.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from dit_lab.report.arms import stands_on, steps_of
from dit_lab.report.flags import flags
from dit_lab.report.grid import Asked, Blocks, Cell, ContrastResult, Grid, hypotheses, judge
from dit_lab.report.results import (
    ARM,
    AnalysisRequest,
    Configuration,
    Result,
    differing,
    find_baseline,
    group,
)
from dit_lab.statistics.contrasts import Weights


class Verdict(StrEnum):
    BASELINE = "baseline"
    BETTER = "better"
    WORSE = "worse"
    NOT_SHOWN = "no difference shown"
    FEW_SEEDS = "not enough seeds"
    ZERO_VARIANCE = "no spread between seeds"  # so that no difference can be tested


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One configuration compared with the baseline."""

    verdict: Verdict
    difference: float | None = None  # None if either was not measured
    tested: ContrastResult | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """One level of an axis compared with the reference level, averaged over complete blocks."""

    axis: str
    level: str
    reference: str
    verdict: Verdict
    tested: ContrastResult | None
    blocks: int  # complete ones, with enough seeds at every level of the axis
    of_blocks: int  # complete or not
    depends_on: tuple[str, ...] = ()  # axes that interact with this one
    nested: tuple[str, ...] = ()  # axes of some levels only: each level is averaged over them


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One named arm compared with its parent arm, or with the baseline's arm."""

    arm: str
    reference: str
    stands_on_it: bool  # whether the reference is the parent arm
    verdict: Verdict
    tested: ContrastResult | None
    blocks: int
    of_blocks: int
    depends_on: tuple[str, ...] = ()
    nested: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Interaction:
    """How the effect of one axis changes with another axis, averaged over complete blocks."""

    axes: tuple[str, str]
    levels: tuple[str, str]
    references: tuple[str, str]
    tested: ContrastResult
    flagged: bool
    blocks: int
    of_blocks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Two configurations that should agree, and whether they do."""

    first: Configuration
    second: Configuration
    reason: str
    tested: ContrastResult | None = None  # None: not enough seeds, or no spread
    agrees: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """The answer. `configurations` and `comparisons` have the same order, that of appearance."""

    question: AnalysisRequest
    axes: tuple[str, ...]
    configurations: tuple[Configuration, ...]
    baseline: Configuration
    comparisons: tuple[Comparison, ...]
    effects: tuple[Effect, ...]  # empty with a single axis: they would repeat the comparisons
    steps: tuple[Step, ...]  # of named arms, in place of their effects
    interactions: tuple[Interaction, ...]
    untested_pairs: tuple[tuple[str, str], ...]  # pairs of axes without a complete block
    agreements: tuple[Agreement, ...]
    family: int  # number of comparisons, effects and steps that are corrected together
    flags: tuple[str, ...]  # warnings about the comparison as a whole


def analyse(results: Sequence[Result], question: AnalysisRequest) -> Analysis:
    """Compare every configuration with the baseline, and the levels of every axis.

    Comparisons, effects and steps of arms are one family with a family-wise error rate of alpha;
    each hypothesis counts once. Interactions are a family of their own, and so are agreements.

    Raises:
        RequestError: if the metric or the baseline does not exist, or two runs of a configuration
            have the same seed.
    """
    configurations = group(results, question)
    axes = differing(configurations)
    baseline = find_baseline(configurations, question, axes)
    grid = Grid(configurations, axes, baseline, question.metric)

    rows = [grid.difference(index, baseline) for index in range(len(configurations))]
    steps = steps_of(grid, question.arms)
    along = _axis_contrasts(grid, without=ARM if steps else "") if len(axes) > 1 else {}
    over_blocks = (asked.weights for of in (along, steps) for asked in of.values())
    family = judge((*rows, *over_blocks), grid, question)
    interactions, untested = _interactions(grid, question)

    def found(asked: Asked, axis: str) -> dict[str, Any]:
        tested = family.get(asked.weights)
        return {
            "verdict": _verdict(tested, question) if asked.weights else Verdict.FEW_SEEDS,
            "tested": tested,
            "blocks": asked.blocks,
            "of_blocks": asked.of_blocks,
            "depends_on": _partners(axis, interactions),
            "nested": asked.nested,
        }

    return Analysis(
        question=question,
        axes=axes,
        configurations=configurations,
        baseline=configurations[baseline],
        comparisons=tuple(
            _comparison(grid, index, rows[index], family, question)
            for index in range(len(configurations))
        ),
        effects=tuple(
            Effect(axis=axis, level=level, reference=reference, **found(asked, axis))
            for (axis, level, reference), asked in along.items()
        ),
        steps=tuple(
            Step(
                arm=arm,
                reference=other,
                stands_on_it=other == stands_on(question.arms, arm),
                **found(asked, ARM),
            )
            for (arm, other), asked in steps.items()
        ),
        interactions=interactions,
        untested_pairs=untested,
        agreements=_agreements(grid, question),
        family=hypotheses(family),
        flags=flags(configurations, axes),
    )


def _verdict(tested: ContrastResult | None, question: AnalysisRequest) -> Verdict:
    if tested is None:
        return Verdict.ZERO_VARIANCE
    if tested.adjusted_p >= question.alpha:
        return Verdict.NOT_SHOWN
    return Verdict.BETTER if (tested.difference < 0) == question.lower_is_better else Verdict.WORSE


# ---- comparisons with the baseline --------------------------------------------------------------


def _comparison(
    grid: Grid,
    index: int,
    weights: Weights,
    family: Mapping[Weights, ContrastResult],
    question: AnalysisRequest,
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
        difference=tested.difference if tested else apart,  # tested on common seeds only
        tested=tested,
    )


# ---- effects and interactions of axes -----------------------------------------------------------


def _axis_contrasts(grid: Grid, *, without: str) -> dict[tuple[str, str, str], Asked]:
    """Return (axis, level, reference level) -> the contrast of the two levels."""
    asked = {}
    for axis in grid.axes:
        if axis == without:
            continue
        blocks = grid.blocks(axis)
        for level in blocks.others(0):
            (reference,) = blocks.references
            asked[axis, level, reference] = Asked(
                weights=grid.mean_over(blocks.complete, {(level,): 1, (reference,): -1}),
                blocks=len(blocks.complete),
                of_blocks=blocks.total,
                nested=blocks.nested,
            )
    return asked


def _partners(axis: str, interactions: Sequence[Interaction]) -> tuple[str, ...]:
    """Return the axes on which the effects of an axis depend."""
    with_it = (set(one.axes) - {axis} for one in interactions if one.flagged and axis in one.axes)
    return tuple(sorted(set().union(*with_it)))


def _interactions(
    grid: Grid, question: AnalysisRequest
) -> tuple[tuple[Interaction, ...], tuple[tuple[str, str], ...]]:
    """Return the interactions of every pair of axes, and the pairs without a complete block."""
    asked: dict[tuple[tuple[str, str], tuple[str, str]], tuple[Weights, Blocks]] = {}
    untested = []
    for one, other in itertools.combinations(grid.axes, 2):
        blocks = grid.blocks(one, other)
        if min(map(len, blocks.levels)) < 2:
            continue  # one axis is set for a single level of the other
        if not blocks.complete:
            untested.append((one, other))
            continue
        a, b = blocks.references
        for level, beside in itertools.product(blocks.others(0), blocks.others(1)):
            signs: dict[Cell, int] = {
                (level, beside): 1,
                (a, beside): -1,
                (level, b): -1,
                (a, b): 1,
            }
            weights = grid.mean_over(blocks.complete, signs)
            asked[(one, other), (level, beside)] = weights, blocks
    family = judge((weights for weights, _ in asked.values()), grid, question)
    found = tuple(
        Interaction(
            axes=axes,
            levels=levels,
            references=(blocks.references[0], blocks.references[1]),
            tested=family[weights],
            flagged=family[weights].adjusted_p < question.alpha,
            blocks=len(blocks.complete),
            of_blocks=blocks.total,
        )
        for (axes, levels), (weights, blocks) in asked.items()
        if weights in family
    )
    return found, tuple(untested)


# ---- expected agreements ------------------------------------------------------------------------


def _agreements(grid: Grid, question: AnalysisRequest) -> tuple[Agreement, ...]:
    """Compare the first configuration of each expectation with each of the others.

    They agree if the simultaneous interval of their difference contains 0.
    """
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
