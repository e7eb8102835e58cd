"""Sections and tables of a report, and text that several sections share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dit_lab.report.grid import ContrastResult
from dit_lab.report.results import AnalysisRequest
from dit_lab.report.rounding import between, p_value, plus_minus, rounded


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: Sequence[bool]  # which columns are text, aligned left


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    title: str
    lines: Sequence[str] = ()
    table: Table | None = None


def as_sentence(text: str) -> str:
    """Return the text with a capital and a full stop."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def detectable(tested: ContrastResult) -> str:
    """Return the smallest difference that would probably have been found, as text."""
    return rounded(tested.detectable, tested.detectable)


def measured(question: AnalysisRequest, tested: ContrastResult, difference: float) -> str:
    """Return a difference with its interval and adjusted p-value, as text."""
    reach = (tested.high - tested.low) / 2
    return (
        f"{plus_minus(difference, reach)} (simultaneous {1 - question.alpha:.0%} "
        f"interval, adjusted p {p_value(tested.adjusted_p)})"
    )


def without_empty_columns(table: Table) -> Table:
    """Return the table without the columns that are empty in all rows."""
    kept = [n for n in range(len(table.headings)) if any(row[n] for row in table.rows)]
    return Table(
        headings=[table.headings[n] for n in kept],
        rows=[[row[n] for n in kept] for row in table.rows],
        left=[table.left[n] for n in kept],
    )


def tested_cells(tested: ContrastResult | None) -> list[str]:
    """Return two table cells: the difference with its interval, and the adjusted p-value."""
    if tested is None:
        return ["", ""]
    return [between(tested.difference, tested.low, tested.high), p_value(tested.adjusted_p)]
