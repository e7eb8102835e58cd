"""The text of a report: sections of sentences and tables, for any format."""

from __future__ import annotations

from dit_lab.core.text import counted
from dit_lab.report.analysis import Agreement, Analysis, Comparison, Interaction, Verdict
from dit_lab.report.arm_sentences import arm_sections, remarks_on
from dit_lab.report.columns import columns, rows
from dit_lab.report.flags import name_seeds
from dit_lab.report.grid import MIN_SEEDS
from dit_lab.report.power_law import losses, power_law
from dit_lab.report.results import NOT_SET, Configuration
from dit_lab.report.rounding import between, plus_minus, quantity
from dit_lab.report.wording import (
    Section,
    Table,
    as_sentence,
    detectable,
    measured,
    tested_cells,
    without_empty_columns,
)

MOST_CLAIMS = 5  # sentences per verdict in the answer; the table has all claims
MOST_INTERACTIONS = 20


def sections(ablation: Analysis) -> list[Section]:
    """Return the sections that have content, without plots and pictures."""
    every = [
        Section(title="Answer", lines=answer(ablation)),
        Section(title="Warnings", lines=[as_sentence(flag) for flag in ablation.flags]),
        Section(title="Configurations", lines=[circumstances(ablation)], table=results(ablation)),
        *arm_sections(ablation),
        Section(title="Main effects", table=_effects(ablation)),
        _interactions(ablation),
        Section(
            title="Expected to agree",
            lines=[_agreement(ablation, agreement) for agreement in ablation.agreements],
        ),
        Section(title="Compute", lines=_laws(ablation)),
        Section(title="Remarks", lines=[as_sentence(text) for text in ablation.question.remarks]),
        Section(title="How to read this", lines=_how_to_read(ablation)),
    ]
    return [section for section in every if section.lines or section.table]


# ---- the answer ---------------------------------------------------------------------------------


def answer(ablation: Analysis) -> list[str]:
    """Return one sentence per claim, the largest differences first."""
    base = ablation.baseline
    if len(ablation.configurations) == 1:
        sample = base.sample
        count = counted(sample.n, "seed")
        mean = plus_minus(sample.mean, sample.sd)
        return [f"There is one configuration: {ablation.question.metric} is {mean} over {count}."]
    if base.sample.n < MIN_SEEDS:
        return [
            f"Nothing is compared: the baseline {base.label(ablation.axes)} has "
            f"{counted(base.sample.n, 'measured seed')}; a comparison needs {MIN_SEEDS}."
        ]
    return [
        *_claims(ablation, Verdict.BETTER),
        *_claims(ablation, Verdict.WORSE),
        *_claims(ablation, Verdict.NOT_SHOWN),
        *_unjudged(ablation, Verdict.FEW_SEEDS, f"fewer than {MIN_SEEDS} measured seeds"),
        *_unjudged(ablation, Verdict.ZERO_VARIANCE, "no spread between seeds"),
    ]


def _claims(ablation: Analysis, verdict: Verdict) -> list[str]:
    found = [row for row in rows(ablation) if row[1].verdict == verdict]
    found.sort(key=lambda row: -abs(row[1].difference or 0))
    lines = [_claim(ablation, *row) for row in found[:MOST_CLAIMS]]
    if len(found) > MOST_CLAIMS:
        lines.append(
            f"{len(found) - MOST_CLAIMS} more with the verdict '{verdict}' are in the table."
        )
    return lines


def _claim(ablation: Analysis, configuration: Configuration, comparison: Comparison) -> str:
    one, base = (c.label(ablation.axes) for c in (configuration, ablation.baseline))
    tested = comparison.tested
    assert tested is not None
    if comparison.verdict == Verdict.NOT_SHOWN:
        return (
            f"No difference is shown between {one} and {base}: "
            f"{measured(ablation.question, tested, tested.difference)}. "
            f"A difference above {detectable(tested)} would probably have been seen "
            f"(power about {ablation.question.power:.0%})."
        )
    size = measured(ablation.question, tested, abs(tested.difference))
    return f"{one} is {comparison.verdict} than {base} by {size}."


def _unjudged(ablation: Analysis, verdict: Verdict, why: str) -> list[str]:
    names = [c.label(ablation.axes) for c, found in rows(ablation) if found.verdict == verdict]
    if not names:
        return []
    more = f" and {len(names) - MOST_CLAIMS} more" if len(names) > MOST_CLAIMS else ""
    return [f"Not tested ({why}): {'; '.join(names[:MOST_CLAIMS])}{more}."]


# ---- tables -------------------------------------------------------------------------------------


def circumstances(ablation: Analysis) -> str:
    """Return a line on what was compared."""
    configurations, question = ablation.configurations, ablation.question
    measured = sum(c.sample.n for c in configurations)
    runs = sum(len(c.results) for c in configurations)
    seeds = sorted({run.seed for c in configurations for run in c.results})
    shown = name_seeds(seeds) if len(seeds) <= 10 else f"{counted(len(seeds), 'seed')}"
    direction = "lower" if question.lower_is_better else "higher"
    same = [
        f"{column}={value}"
        for column, value in ablation.baseline.settings.items()
        if column not in ablation.axes
    ]
    number = len(configurations)
    return (
        f"{counted(number, 'configuration')}, {shown}, {measured} of {runs} runs "
        f"measured. Metric: {question.metric}, {direction} is better. "
        f"Baseline: {ablation.baseline.label(ablation.axes)}."
        + (f" The same in all runs: {', '.join(same)}." if same else "")
    )


def results(ablation: Analysis) -> Table:
    shown = columns(ablation)
    return Table(
        headings=[column.heading for column in shown],
        rows=[[column.text(row) for column in shown] for row in rows(ablation)],
        left=[column.left for column in shown],
    )


def judged(ablation: Analysis) -> Table:
    """Return the table of results up to the verdict."""
    whole = results(ablation)
    shown = whole.headings.index("verdict") + 1
    return Table(
        headings=whole.headings[:shown],
        rows=[row[:shown] for row in whole.rows],
        left=whole.left[:shown],
    )


def _effects(ablation: Analysis) -> Table | None:
    if not ablation.effects:
        return None
    table = Table(
        headings=["axis", "level", "reference level", "mean difference", "adjusted p", "verdict",
                  "detectable difference", "complete blocks", "remark"],
        rows=[
            [
                effect.axis, effect.level, effect.reference, *tested_cells(effect.tested),
                str(effect.verdict),
                detectable(effect.tested) if effect.tested else "",
                f"{effect.blocks} of {effect.of_blocks}",
                "; ".join([*_where_set(ablation, effect.axis), *remarks_on(effect)]),
            ]
            for effect in ablation.effects
        ],
        left=[True, True, True, False, False, True, False, False, True],
    )  # fmt: skip
    return without_empty_columns(table)


def _where_set(ablation: Analysis, axis: str) -> list[str]:
    """Return a remark if some configurations do not have the axis."""
    having = [c.settings[axis] != NOT_SET for c in ablation.configurations]
    some = f"over {sum(having)} of {counted(len(having), 'configuration')}, which have it"
    return [] if all(having) else [some]


def _interactions(ablation: Analysis) -> Section:
    found = ablation.interactions
    lines = [_interaction(ablation, one) for one in found if one.flagged]
    if found and not lines:
        lines.append(f"No interaction is shown among the {len(found)} that were tested.")
    if ablation.untested_pairs:
        pairs = "; ".join(f"{one} with {other}" for one, other in ablation.untested_pairs)
        lines.append(f"Not tested, because no block is complete: {pairs}.")
    shown = sorted(found, key=lambda one: one.tested.adjusted_p)[:MOST_INTERACTIONS]
    if len(found) > len(shown):
        lines.append(f"The table has the {len(shown)} with the smallest p of {len(found)}.")
    table = Table(
        headings=["change", "at", "compared with", "difference of differences", "adjusted p",
                  "complete blocks"],
        rows=[
            [
                f"{one.axes[0]}: {one.references[0]} to {one.levels[0]}",
                f"{one.axes[1]}={one.levels[1]}", one.references[1], *tested_cells(one.tested),
                f"{one.blocks} of {one.of_blocks}",
            ]
            for one in shown
        ],
        left=[True, True, True, False, False, False],
    )  # fmt: skip
    return Section(title="Interactions", lines=lines, table=table if shown else None)


def _interaction(ablation: Analysis, one: Interaction) -> str:
    (axis, other), (level, beside), (reference, usual) = one.axes, one.levels, one.references
    direction = "lower" if one.tested.difference < 0 else "higher"
    size = measured(ablation.question, one.tested, abs(one.tested.difference))
    return (
        f"The effect of {axis} depends on {other}: the change of {ablation.question.metric} from "
        f"{reference} to {level} is {size} {direction} at {other}={beside} than at {other}={usual}."
    )


def _agreement(ablation: Analysis, one: Agreement) -> str:
    first, second = (c.label(ablation.axes) for c in (one.first, one.second))
    if one.tested is None:
        return (
            f"{first} and {second} should agree ({one.reason}); that cannot be checked with "
            f"{one.first.sample.n} and {one.second.sample.n} seeds."
        )
    difference = between(one.tested.difference, one.tested.low, one.tested.high)
    if one.agrees:
        return (
            f"{first} and {second} agree as expected ({one.reason}): the interval of the "
            f"difference, {difference}, contains 0; a difference above {detectable(one.tested)} "
            "would probably have been seen."
        )
    return (
        f"{first} and {second} differ although they should agree ({one.reason}): the interval of "
        f"the difference, {difference}, excludes 0. Find the cause before trusting other results."
    )


def _laws(ablation: Analysis) -> list[str]:
    fitted = [law for name in losses(ablation) if (law := power_law(ablation, name))]
    return [
        f"{law.metric} falls with training compute as FLOPs ^ -{law.exponent:.3f} ± "
        f"{law.standard_error:.3f} (standard error), from {quantity(law.flops[0])} to "
        f"{quantity(law.flops[1])}FLOP, fitted to {law.configurations} configurations (R squared "
        f"of the logarithms: {law.explained:.3f})."
        for law in fitted
    ]


def _how_to_read(ablation: Analysis) -> list[str]:
    question = ablation.question
    level, alpha = f"{1 - question.alpha:.0%}", f"{question.alpha:.0%}"
    tested = "comparisons, effects and steps" if ablation.steps else "comparisons and effects"
    claims = [
        f"A difference is the configuration minus the baseline. The {level} intervals are "
        f"simultaneous for all {tested} of this report ({ablation.family} in total). "
        "Better and worse mean that the interval excludes 0, which is the case if the adjusted "
        f"p-value is below {question.alpha:g}.",
        f"If nothing differs, at most {alpha} of sweeps lead to any such claim, and at most "
        f"{alpha} to any interaction (family-wise error rates). The rates were simulated for "
        "normal values, independent trainings and any standard deviations. Heavy tails lower them; "
        "skewed values with unequal standard deviations raise them, up to 18% for lognormal values "
        "(docs/statistics.md).",
    ]
    return [
        "The ± of a mean is the standard deviation over training seeds. The evaluation spread is "
        "the standard deviation over draws of one run's evaluation; no claim depends on it.",
        *(claims if ablation.family else []),
        "No difference shown does not mean equal. True differences below the detectable difference "
        f"are easily missed with so few seeds. Larger ones are found with about "
        f"{question.power:.0%} power, if the standard deviations are as estimated.",
        f"Configurations with fewer than {MIN_SEEDS} seeds are not tested. Configurations that "
        "share trained models are compared seed by seed, on the seeds that both have. The effect "
        "of an axis is averaged over complete blocks: those settings of the other axes for which "
        "every level of the axis has enough seeds.",
    ]
