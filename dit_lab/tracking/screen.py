"""The one console of Rich's: what others named is shown as it is, on one line, and means nothing.

Importing Rich takes a tenth of a second, so modules that are always imported import this one late.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dit_lab.core.text import one_line, to_nowhere

LONGEST_LINE = 240  # a narrow terminal wraps lines, where Rich would cut numbers short


class Screen(Console):
    """A console on standard output that interprets no text: no markup, emoji codes or control
    characters. Style is given by objects (`styled`)."""

    def __init__(self, *, width: int | None = LONGEST_LINE, soft_wrap: bool = True) -> None:
        super().__init__(
            markup=False, highlight=False, emoji=False, soft_wrap=soft_wrap, width=width
        )

    def render_str(self, text: str, **options: Any) -> Text:
        options.update(markup=False, highlight=False, emoji=False)
        return super().render_str(one_line(text), **options)

    def on_broken_pipe(self) -> None:
        """Where nobody reads any more, what follows goes nowhere, as in `say`."""
        self.quiet = True
        to_nowhere(sys.stdout)


def styled(text: object, style: str = "") -> Text:
    """A text of one line in a style."""
    return Text(one_line(text), style)


def table(
    headings: Sequence[str],
    rows: Iterable[Sequence[str | Text]],
    *,
    left: Sequence[bool] | None = None,
    wrap: bool = False,
) -> Table:
    """Rows under headings; `left` says which columns are words, not numbers: all unless given."""
    made = Table(box=None, pad_edge=False)
    for heading, is_left in zip(headings, left or [True] * len(headings), strict=True):
        justify: Literal["left", "right"] = "left" if is_left else "right"
        made.add_column(styled(heading), justify=justify, no_wrap=not wrap)
    for row in rows:
        made.add_row(*row)
    return made


def pairs(rows: Iterable[tuple[str, str]]) -> Table:
    """Names and what they have, without headings; long lines are wrapped."""
    made = Table(box=None, pad_edge=False, show_header=False)
    for row in rows:
        made.add_row(*row)
    return made
