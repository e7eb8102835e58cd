"""What sections of a report are made of, and words that several of them share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dit_lab.report.grid import Tested
from dit_lab.report.results import Question
from dit_lab.report.rounding import between, p_value, plus_minus, rounded


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: Sequence[bool]  # which columns are words


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    title: str
    lines: Sequence[str] = ()
    table: Table | None = None


def as_sentence(text: str) -> str:
    """With a capital and a full stop."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def detectable(tested: Tested) -> str:
    """The smallest difference that would probably have been found."""
    return rounded(tested.detectable, tested.detectable)


def measured(question: Question, tested: Tested, difference: float) -> str:
    """A difference, its interval and its p-value."""
    reach = (tested.high - tested.low) / 2
    return (
        f"{plus_minus(difference, reach)} (simultaneous {1 - question.alpha:.0%} "
        f"interval, adjusted p {p_value(tested.adjusted_p)})"
    )


def without_empty_columns(table: Table) -> Table:
    """The columns that have something in some row."""
    kept = [n for n in range(len(table.headings)) if any(row[n] for row in table.rows)]
    return Table(
        headings=[table.headings[n] for n in kept],
        rows=[[row[n] for n in kept] for row in table.rows],
        left=[table.left[n] for n in kept],
    )


def tested_cells(tested: Tested | None) -> list[str]:
    """The difference with its interval, and the p-value."""
    if tested is None:
        return ["", ""]
    return [between(tested.difference, tested.low, tested.high), p_value(tested.adjusted_p)]
