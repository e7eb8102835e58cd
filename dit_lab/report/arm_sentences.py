"""Sentences and tables about named arms: what each arm changes, and the effect of the change."""

from __future__ import annotations

import csv
import io

from dit_lab.report.analysis import Analysis, Effect, Step, Verdict
from dit_lab.report.results import ARM
from dit_lab.report.wording import (
    Section,
    Table,
    detectable,
    measured,
    tested_cells,
    without_empty_columns,
)


def arm_sections(ablation: Analysis) -> list[Section]:
    """Return the sections on the arms and on their comparisons with parent and baseline."""
    if not ablation.question.arms or ARM not in ablation.configurations[0].settings:
        return []
    return [
        Section(title="Arms", table=_arms(ablation)),
        Section(
            title="Steps between arms",
            lines=[_step(ablation, step) for step in ablation.steps if step.stands_on_it],
            table=steps_table(ablation) if ablation.steps else None,
        ),
    ]


def new_steps(ablation: Analysis) -> list[str]:
    """Return the sentences on steps that do not repeat comparisons with the baseline."""
    return [
        _step(ablation, step)
        for step in ablation.steps
        if step.stands_on_it
        and (len(ablation.axes) > 1 or step.reference != ablation.baseline.settings[ARM])
    ]


def _arms(ablation: Analysis) -> Table:
    arms = ablation.question.arms
    shown = dict.fromkeys(c.settings[ARM] for c in ablation.configurations)
    return Table(
        headings=["arm", "parent", "overrides"],
        rows=[[name, arms[name].stands_on or "", arms[name].changed]
              for name in shown if name in arms],
        left=[True, True, True],
    )  # fmt: skip


def _step(ablation: Analysis, step: Step) -> str:
    """Return the sentence on a step: `beta2 is better than its parent logit_normal by 0.05 ...`."""
    tested = step.tested
    if tested is None:
        return f"{step.arm} compared with its parent {step.reference}: {step.verdict}."
    if step.verdict == Verdict.NOT_SHOWN:
        size = measured(ablation.question, tested, tested.difference)
        return (
            f"No difference is shown between {step.arm} and its parent {step.reference}: "
            f"{size}. A difference above {detectable(tested)} would probably have been seen."
        )
    size = measured(ablation.question, tested, abs(tested.difference))
    over = f", averaged over {step.blocks} blocks" if step.blocks > 1 else ""
    return f"{step.arm} is {step.verdict} than its parent {step.reference} by {size}{over}."


def remarks_on(one: Effect | Step) -> list[str]:
    """Return remarks on what an average does not show: nested axes and interactions."""
    found = []
    if one.nested:
        found.append(f"averaged over {', '.join(one.nested)}")
    if one.depends_on:
        found.append(f"depends on {', '.join(one.depends_on)}")
    return found


def steps_table(ablation: Analysis) -> Table:
    """Return the table of steps, one row per comparison of two arms."""
    table = Table(
        headings=["arm", "reference", "role of the reference", "mean difference", "adjusted p",
                  "verdict", "detectable difference", "complete blocks", "remark"],
        rows=[
            [
                step.arm, step.reference, _which_is(ablation, step), *tested_cells(step.tested),
                str(step.verdict), detectable(step.tested) if step.tested else "",
                f"{step.blocks} of {step.of_blocks}" if len(ablation.axes) > 1 else "",
                "; ".join(remarks_on(step)),
            ]
            for step in ablation.steps
        ],
        left=[True, True, True, False, False, True, False, False, True],
    )  # fmt: skip
    return without_empty_columns(table)


def _which_is(ablation: Analysis, step: Step) -> str:
    base = step.reference == ablation.baseline.settings[ARM]
    roles = ["parent"] * step.stands_on_it + ["baseline"] * base
    return " and ".join(roles)


def steps_csv(ablation: Analysis) -> str:
    """Return the table of steps as CSV, with full precision and with what each arm changes."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["arm", "changes", "instead_of", "stands_on_it", "difference", "low", "high",
                     "adjusted_p", "verdict", "detectable_difference", "complete_blocks",
                     "blocks"])  # fmt: skip
    arms = ablation.question.arms
    for step in ablation.steps:
        one = step.tested
        numbers = (one.difference, one.low, one.high, one.adjusted_p) if one else ("",) * 4
        writer.writerow([
            step.arm, arms[step.arm].changed if step.arm in arms else "", step.reference,
            str(step.stands_on_it).lower(), *numbers, str(step.verdict),
            one.detectable if one else "", step.blocks, step.of_blocks,
        ])  # fmt: skip
    return file.getvalue()
