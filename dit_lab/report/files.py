"""Files of a report: the HTML page, Markdown, and tables as CSV and LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from dit_lab.core.files import to_json
from dit_lab.core.text import one_line
from dit_lab.report.analysis import Analysis
from dit_lab.report.arm_sentences import steps_csv, steps_table
from dit_lab.report.columns import columns, rows
from dit_lab.report.drawing import png
from dit_lab.report.markdown import markdown
from dit_lab.report.page import page
from dit_lab.report.plots import pictures
from dit_lab.report.sentences import results
from dit_lab.report.summary import summary
from dit_lab.report.wording import Table
from dit_lab.runs.records import SUMMARY


def write_report(ablation: Analysis, folder: Path, *, title: str) -> list[Path]:
    """Write a report into `folder`, which is created if needed.

    The files are report.html, which is self-contained, report.md with its pictures, report.csv,
    report.tex and summary.json; with named arms also steps.csv and steps.tex. Equal answers give
    equal bytes.

    Returns:
        The paths of the files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "report.html": page(ablation, title=title),
        "report.md": markdown(ablation, title=title),
        "report.csv": csv_table(ablation),
        "report.tex": latex(results(ablation)),
        SUMMARY: to_json(summary(ablation), indent=2) + "\n",
    }
    if ablation.steps:
        texts["steps.csv"] = steps_csv(ablation)
        texts["steps.tex"] = latex(steps_table(ablation))
    for name, text in texts.items():
        safe = "\n".join(map(one_line, text.split("\n")))  # settings and names may contain anything
        (folder / name).write_text(safe, encoding="utf-8", newline="\n")
    shown = list(pictures(ablation))
    for picture in shown:
        (folder / picture.name).write_bytes(png(picture.draw))
    return [folder / name for name in (*texts, *(picture.name for picture in shown))]


# ---- CSV ----------------------------------------------------------------------------------------


def csv_table(ablation: Analysis) -> str:
    """Return one CSV row per configuration, with full precision; unknown values are empty."""
    shown = columns(ablation)
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([heading for column in shown for heading in column.exact])
    for row in rows(ablation):
        writer.writerow([read(row) for column in shown for read in column.exact.values()])
    return file.getvalue()


# ---- LaTeX --------------------------------------------------------------------------------------

LATEX: Mapping[str, str] = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#",
    "_": r"\_", "%": r"\%", "^": r"\^{}", "~": r"\~{}", "<": "$<$", ">": "$>$", "|": "$|$",
    '"': "''", "±": r"$\pm$", "[": "{[}", "*": "{*}",
}  # fmt: skip
"""The last two would be read as optional arguments at the start of a row."""


def latex(table: Table) -> str:
    """Return the table as a LaTeX tabular that needs no package."""
    alignment = "".join("l" if left else "r" for left in table.left)
    lines = [
        rf"\begin{{tabular}}{{{alignment}}}",
        r"\hline",
        _latex_row(table.headings),
        r"\hline",
        *(_latex_row(row) for row in table.rows),
        r"\hline",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(_latex_text(cell) for cell in cells) + r" \\"


def _latex_text(text: str) -> str:
    return "".join(LATEX.get(letter, letter) for letter in " ".join(text.split()))
