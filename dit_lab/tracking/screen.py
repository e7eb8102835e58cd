"""The lab's Rich console. Text from others is printed as it is, on one line, without markup.

Importing Rich takes a tenth of a second, so modules that are always imported import this one late.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dit_lab.core.text import discard_output, one_line

LONGEST_LINE = 240  # longer than most terminals, which wrap lines; Rich would truncate numbers


class Screen(Console):
    """A console on standard output that interprets no markup, emoji codes or control characters.

    Style is given by objects (`styled`).
    """

    def __init__(self, *, width: int | None = LONGEST_LINE, soft_wrap: bool = True) -> None:
        super().__init__(
            markup=False, highlight=False, emoji=False, soft_wrap=soft_wrap, width=width
        )

    def render_str(self, text: str, **options: Any) -> Text:
        options.update(markup=False, highlight=False, emoji=False)
        return super().render_str(one_line(text), **options)

    def on_broken_pipe(self) -> None:
        """Discard further output once nobody reads it, as `say` does."""
        self.quiet = True
        discard_output(sys.stdout)


def styled(text: object, style: str = "") -> Text:
    """Return a one-line text with a style."""
    return Text(one_line(text), style)


def table(
    headings: Sequence[str],
    rows: Iterable[Sequence[str | Text]],
    *,
    left: Sequence[bool] | None = None,
    wrap: bool = False,
) -> Table:
    """Return a table; `left` marks columns of text (default: all), others align right."""
    made = Table(box=None, pad_edge=False)
    for heading, is_left in zip(headings, left or [True] * len(headings), strict=True):
        justify: Literal["left", "right"] = "left" if is_left else "right"
        made.add_column(styled(heading), justify=justify, no_wrap=not wrap)
    for row in rows:
        made.add_row(*row)
    return made


def pairs(rows: Iterable[tuple[str, str]]) -> Table:
    """Return a table of names and values without headings; long lines are wrapped."""
    made = Table(box=None, pad_edge=False, show_header=False)
    for row in rows:
        made.add_row(*row)
    return made
