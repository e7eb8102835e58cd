"""Evaluations as a table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dit_lab.evaluation.card import Evaluation
from dit_lab.evaluation.comparing import Effect, differences
from dit_lab.evaluation.table import Row
from dit_lab.reproduce.expected import ONE, Verdict

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from dit_lab.reproduce.experiment import Judgement

WANTED = (
    "wanted: two_sample 0.5 (a coin's), distance_ratio 1 (copies are below), exact_copies 0, "
    "bits_per_dimension low, everything else what real images have"
)

LONGEST_LINE = 240  # a narrow terminal wraps lines, where rich would cut numbers short


def print_evaluations(evaluations: Sequence[Evaluation]) -> None:
    """Metric by row, one column of numbers for each set of samples, real images as the floor.

    Numbers in brackets do not count; the reason is below.
    """
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("metric", "against", "images"):
        table.add_column(heading, no_wrap=True)
    for evaluation in evaluations:
        table.add_column(evaluation.card.samples, justify="right", no_wrap=True)
    table.add_column("real images", justify="right", no_wrap=True)
    measured = [{row.key: row for row in evaluation.rows} for evaluation in evaluations]
    for row in evaluations[0].rows:
        floor = _number(row.floor, row.floor_deviation)
        values = [_value(rows[row.key]) if row.key in rows else "-" for rows in measured]
        table.add_row(row.metric, row.against, f"{row.num_images:,}", *values, floor)
    console = _console()
    console.print(table)
    console.print(f"[dim]{WANTED}[/]")
    for evaluation in evaluations:
        for finding in evaluation.findings:
            console.print(f"{evaluation.card.samples}: {finding}, so numbers in (  ) do not count")
    console.print(f"[dim]{_circumstances(evaluations[0])}[/]")


def print_comparison(first: Evaluation, second: Evaluation) -> bool:
    """What two evaluations differ in, and, where they can be compared (True), their numbers."""
    found = differences(first.card, second.card)
    comparable = all(difference.effect is not Effect.protocol for difference in found)
    console = _console()
    for effect in Effect:
        parts = [(d.key, d.first, d.second) for d in found if d.effect is effect]
        if parts:
            console.print(f"[bold]{effect.value}[/]")
            console.print(columns(("", "A", "B"), parts))
    if not found:
        console.print("the same measurement of the same weights")
    if comparable:
        numbers = {row.key: row for row in second.rows}
        both = [(row, numbers[row.key]) for row in first.rows if row.key in numbers]
        rows = [(row.key, _value(row), _value(other)) for row, other in both]
        console.print(columns(("metric", "A", "B"), rows))
    console.print(f"[bold]{'comparable' if comparable else 'not comparable'}[/]")
    return comparable


def print_judgement(found: Judgement) -> None:
    """Recorded against obtained for each configuration, and whether everything came back."""
    from rich.markup import escape

    console = _console()
    for label, verdicts in found.numbers.items():
        if label != ONE:
            console.print(f"[bold]{escape(label)}[/]")
        rows = [
            (v.name, v.recorded, v.obtained, _difference(v), f"{v.tolerance:.2g}", v.word)
            for v in verdicts
        ]
        headings = ("number", "recorded", "obtained", "difference", "tolerance", "verdict")
        console.print(columns(headings, rows))
    for difference in found.differences:
        console.print(f"[dim]not as recorded: {escape(difference)}[/]")
    wrong = [f"{name}{'' if label == ONE else f' ({label})'}" for label, name in found.wrong]
    said = f"not reproduced: {', '.join(wrong)}" if wrong else "reproduced"
    console.print(f"[bold]{escape(said)}[/]")


def _difference(verdict: Verdict) -> str:
    return "-" if verdict.difference is None else f"{verdict.difference:.2g}"


def _console() -> Console:
    from rich.console import Console

    return Console(soft_wrap=True, width=LONGEST_LINE)


def columns(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, no_wrap=True)
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def _value(row: Row) -> str:
    number = _number(row.value, row.deviation)
    return f"({number})" if row.caveat else number


def _number(value: float | None, deviation: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if deviation is None else f"{value:.3f} ± {deviation:.3f}"


def _circumstances(evaluation: Evaluation) -> str:
    """The card in one line."""
    card = evaluation.card
    sampler, steps = card.sampler["_target_"].rpartition(".")[2], card.sampler.get("steps")
    weak = card.guidance["weak_run"]
    return (
        f"{card.weights} at step {card.step}, {sampler}{f' with {steps} steps' if steps else ''} "
        f"({card.evaluations_per_image:g} evaluations an image), guidance "
        f"{card.guidance['scale']:g}{f' away from {weak}' if weak else ''}, seed {card.seed}, "
        f"{card.dtype}, labels {card.labels}"
    )
