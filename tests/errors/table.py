"""The page docs/errors.md: what was wrong, what was typed, what was said, by area.

    python -m tests.errors.table [--missing]

types every command and writes the page anew.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.errors.case import Area, Case
from tests.errors.cases import AREAS
from tests.errors.lab import ROOT, Lab, Outcome

PAGE = ROOT / "docs/errors.md"

TOP = """# What cannot be done

What the commands say where they cannot do what they are asked: one line on standard error, exit
code 2, within a second or two, and nothing is left behind. Code 1 is for what failed while it ran
(a run keeps its log and its last checkpoint), code 0 for what goes on all the same.

Every line was printed by the command beside it, after `dit-lab: `. FOLDER is where it was typed,
RUN a run of the small experiment `tiny` that lies there, SWEEP a sweep of it, HASH twelve
hexadecimal digits. The cases
are data in `tests/errors`; `python -m tests.errors.table` types them all and writes this page, and
`tests/integration/test_errors.py` compares the two.
"""

HEADING = "| what was wrong | command | what it says | exit code |\n|---|---|---|---|\n"


def page(row_of: Callable[[Case], str]) -> str:
    """The whole text, with one row for each case."""
    return "\n".join([TOP, *(_area(area, row_of) for area in AREAS)])


def row(case: Case, outcome: Outcome) -> str:
    """One line of a table."""
    command = code(f"dit-lab {case.command}")
    return f"| {case.title} | {command} | {code(said(case, outcome))} | {outcome.code} |"


def said(case: Case, outcome: Outcome) -> str:
    """The line that the case is about, without the command's name; "" where nothing says it."""
    lines = outcome.err.splitlines() + (outcome.out.splitlines() if case.code == 0 else [])
    found = next((line for line in lines if re.search(case.says, line)), "")
    return found.removeprefix("dit-lab: ")


def code(text: str) -> str:
    """Text as code within a table."""
    text = text.replace("|", "\\|")
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def _area(area: Area, row_of: Callable[[Case], str]) -> str:
    rows = "".join(f"{row_of(case)}\n" for case in area.cases)
    return f"## {area.title}\n\n{HEADING}{rows}"


def rows() -> dict[str, str]:
    """Title -> the line that the page has of it."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    of_cases = [line for line in lines if line.startswith("| ") and line not in HEADING]
    return {re.split(r"(?<!\\) \| ", line.removeprefix("| "))[0]: line for line in of_cases}


def main(missing: bool) -> None:
    """Type everything, or only what the page lacks, and write the page."""
    known = rows() if missing else {}
    with tempfile.TemporaryDirectory() as place, Lab(Path(place)) as lab:

        def row_of(case: Case) -> str:
            if case.title in known:
                return known[case.title]
            outcome = lab.outcome(case)
            assert not outcome.could_not, f"{case.title}: {outcome.could_not}"
            assert said(case, outcome), f"{case.title}: does not say {case.says!r}: {outcome}"
            return row(case, outcome)

        text = page(row_of)
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(missing="--missing" in sys.argv[1:])
