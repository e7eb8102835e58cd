"""The tables of docs/objectives-and-samplers.md: complete and reproducible."""

from __future__ import annotations

import re

import pytest

from dit_lab.config import search_path
from dit_lab.config.compatibility import SAMPLERS
from tests.measure.sampler_table import BUILD, EVALUATIONS, OBJECTIVES, PAGE, Cell, rows_of

TEXT = PAGE.read_text(encoding="utf-8")


def rows_in_page(name: str) -> dict[str, list[str]]:
    """Sampler -> the cells of its row in the table of an objective."""
    heading = f"`{name.replace(' ', ' objective.')}`\n\n| sampler |"
    table = TEXT[TEXT.index(heading) + len(heading) :].split("\n\n")[0]
    found = re.findall(r"^\| `([^`]+)` \| (.*) \|$", table, re.MULTILINE)
    return {label: [cell.strip() for cell in cells.split("|")] for label, cells in found}


def test_every_sampler_of_the_configuration_is_in_the_page() -> None:
    names = {name for name in search_path.choices("sampler") if name != "auto"}
    assert {*BUILD, "dopri5", "jump"} == names  # models of these paths cannot jump
    assert all(f"| `{name}` |" in TEXT for name in names)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_table_has_every_sampler_that_fits(name: str) -> None:
    objective = OBJECTIVES[name]
    fitting = SAMPLERS[f"{type(objective).__module__}.{type(objective).__qualname__}"]
    labels = {label.split(" ")[0] for label in rows_in_page(name)}
    assert labels == set(fitting)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddpm", "rectified_flow"])
def test_the_numbers_are_measured_again(name: str) -> None:
    """At 10 evaluations: float64 on the same draws, so that only the last digit may round
    otherwise (DPM-Solver rounds to float32)."""
    page = rows_in_page(name)
    for label, cells in rows_of(name, (EVALUATIONS[0],)):
        (cell,) = cells
        shown = re.fullmatch(r"([\d.]+)(?: \((\d+)\))?", page[label][0])
        assert shown is not None
        written = Cell(float(shown[1]), int(shown[2] or EVALUATIONS[0]))
        assert cell.evaluations == written.evaluations, label
        assert cell.distance == pytest.approx(written.distance, abs=1.5e-4), label
