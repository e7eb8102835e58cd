"""Tables of evaluations and reproductions for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dit_lab.core.text import counted
from dit_lab.evaluation.card import Evaluation
from dit_lab.evaluation.comparing import Effect, differences
from dit_lab.evaluation.table import Row
from dit_lab.reproduce.expected import ONE, Verdict

if TYPE_CHECKING:
    from dit_lab.reproduce.experiment import Judgement

WANTED = (
    "ideal values: two_sample 0.5 (chance), distance_ratio 1 (below 1: copies), exact_copies 0, "
    "bits_per_dimension low, all others the values of real images"
)


def print_evaluations(evaluations: Sequence[Evaluation]) -> None:
    """Print a row for each metric, with a column for each set of samples and for real images.

    Values in brackets are invalid; the reason is printed below the table.
    """
    from dit_lab.tracking.screen import Screen, styled, table

    numbers = [*(one.card.samples for one in evaluations), "real images"]
    headings = ["metric", "against", "images", *numbers]
    measured = [{row.key: row for row in evaluation.rows} for evaluation in evaluations]
    rows = []
    for row in evaluations[0].rows:
        floor = _number(row.floor, row.floor_deviation)
        values = [_value(rows[row.key]) if row.key in rows else "-" for rows in measured]
        rows.append((row.metric, row.against, f"{row.num_images:,}", *values, floor))
    console = Screen()
    console.print(table(headings, rows, left=[True] * 3 + [False] * len(numbers)))
    console.print(styled(WANTED, "dim"))
    for evaluation in evaluations:
        for finding in evaluation.findings:
            console.print(f"{evaluation.card.samples}: {finding}; ignore values in (  )")
    console.print(styled(_circumstances(evaluations[0]), "dim"))


def print_comparison(first: Evaluation, second: Evaluation) -> bool:
    """Print the differences of two evaluations, and their metrics if they are comparable.

    Returns:
        Whether they are comparable.
    """
    from dit_lab.tracking.screen import Screen, styled, table

    found = differences(first.card, second.card)
    comparable = all(difference.effect is not Effect.protocol for difference in found)
    console = Screen()
    for effect in Effect:
        parts = [(d.key, d.first, d.second) for d in found if d.effect is effect]
        if parts:
            console.print(styled(effect.value, "bold"))
            console.print(table(("", "A", "B"), parts))
    if not found:
        console.print("the same evaluation of the same weights")
    if comparable:
        numbers = {row.key: row for row in second.rows}
        both = [(row, numbers[row.key]) for row in first.rows if row.key in numbers]
        rows = [(row.key, _value(row), _value(other)) for row, other in both]
        console.print(table(("metric", "A", "B"), rows))
    console.print(styled("comparable" if comparable else "not comparable", "bold"))
    return comparable


def print_judgement(found: Judgement) -> None:
    """Print recorded and obtained values for each configuration, and the verdict."""
    from dit_lab.tracking.screen import Screen, styled, table

    console = Screen()
    for label, verdicts in found.numbers.items():
        if label != ONE:
            console.print(styled(label, "bold"))
        rows = [
            (v.name, v.recorded, v.obtained, _difference(v), f"{v.tolerance:.2g}", v.word)
            for v in verdicts
        ]
        headings = ("number", "recorded", "obtained", "difference", "tolerance", "verdict")
        console.print(table(headings, rows))
    for difference in found.differences:
        console.print(styled(f"not as recorded: {difference}", "dim"))
    wrong = [f"{name}{'' if label == ONE else f' ({label})'}" for label, name in found.wrong]
    if unknown := found.unknown:
        added = "--quick --record adds them"
        console.print(styled(f"not recorded: {', '.join(unknown)}; {added}", "dim"))
    said = f"not reproduced: {', '.join(wrong)}" if wrong else "reproduced"
    console.print(styled(said, "bold"))


def _difference(verdict: Verdict) -> str:
    return "-" if verdict.difference is None else f"{verdict.difference:.2g}"


def _value(row: Row) -> str:
    number = _number(row.value, row.deviation)
    return f"({number})" if row.caveat else number


def _number(value: float | None, deviation: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if deviation is None else f"{value:.3f} ± {deviation:.3f}"


def _circumstances(evaluation: Evaluation) -> str:
    """Return the evaluation card as one line."""
    card = evaluation.card
    sampler, steps = card.sampler["_target_"].rpartition(".")[2], card.sampler.get("steps")
    weak = card.guidance["weak_run"]
    with_steps = f" with {counted(steps, 'step')}" if steps else ""
    return (
        f"{card.weights} at step {card.step}, {sampler}{with_steps} "
        f"(NFE {card.evaluations_per_image:g}), guidance "
        f"{card.guidance['scale']:g}{f' with weak run {weak}' if weak else ''}, seed {card.seed}, "
        f"{card.dtype}, labels {card.labels}"
    )
