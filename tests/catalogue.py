"""The table of experiments/README.md, generated from the recipes and their recorded results.

    python -m tests.catalogue

rewrites it; a test fails if it is out of date.
"""

from __future__ import annotations

from pathlib import Path

from dit_lab.reproduce.catalogue import Entry, catalogue

README = Path(__file__).resolve().parents[1] / "experiments/README.md"
START, END = "<!-- written by python -m tests.catalogue -->\n", "<!-- until here -->\n"
PAGES = ("report.md", "results.md")  # the first that there is


def table() -> str:
    rows = "".join(f"{_row(entry)}\n" for entry in catalogue())
    return f"| experiment | question | takes | known | |\n|---|---|---|---|---|\n{rows}"


def _row(entry: Entry) -> str:
    pages = [page for page in PAGES if (entry.folder / page).exists()]
    place = f"{entry.name}/{pages[0] if pages else 'recipe.yaml'}"
    cells = (
        f"[{entry.name}]({place})", entry.header["question"], entry.takes, entry.status,
        entry.main.replace("eval/", ""),
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def written(text: str) -> str:
    """Return the page with the present table."""
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    README.write_text(written(README.read_text()))
