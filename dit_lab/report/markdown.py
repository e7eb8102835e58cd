"""A report as Markdown, and the Markdown of its parts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from dit_lab.report.analysis import Analysis
from dit_lab.report.plots import pictures
from dit_lab.report.sentences import sections
from dit_lab.report.wording import Section, Table


def markdown(ablation: Analysis, *, title: str) -> str:
    """Return the report as GitHub Flavored Markdown."""
    answer, *rest = sections(ablation)
    parts = [
        f"# {_plain(title)}",
        *markdown_lines(answer.lines),
        *(f"![{picture.caption}]({picture.name})" for picture in pictures(ablation)),
        *(part for section in rest for part in _markdown_section(section)),
    ]
    return "\n\n".join(parts) + "\n"


def _markdown_section(section: Section) -> Iterator[str]:
    yield f"## {section.title}"
    yield from markdown_lines(section.lines)
    if section.table:
        yield markdown_table(section.table)


def markdown_lines(sentences: Sequence[str]) -> list[str]:
    """Return paragraphs: a single sentence as it is, several as one list."""
    lines = [_plain(line) for line in sentences]
    return ["\n".join(f"- {line}" for line in lines)] if len(lines) > 1 else lines


def markdown_table(table: Table) -> str:
    """Return a table as Markdown."""
    lines = [
        table.headings,
        [":--" if left else "--:" for left in table.left],
        *table.rows,
    ]
    cells = [[_plain(cell) for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def _plain(text: str) -> str:
    """Return text without markup; single underscores inside a word are safe and stay."""
    text = " ".join(text.split())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*|~])", r"\\\1", text)
    text = text.replace("](", "]\\(")
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)
