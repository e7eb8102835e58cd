"""Learning-rate schedules in closed form, and whether they depend on the number of steps."""

from __future__ import annotations

import subprocess
import sys

import pytest

from dit_lab.core.types import Schedule
from dit_lab.training.schedules import Constant, Cosine


def factors(schedule: Schedule, steps: list[int], total_steps: int) -> list[float]:
    return [schedule.factor(step, total_steps) for step in steps]


def test_constant() -> None:
    assert factors(Constant(), [0, 1, 99], 100) == [1.0, 1.0, 1.0]
    assert factors(Constant(warmup_steps=4), [0, 1, 2, 3, 4, 99], 100) == [
        0.25, 0.5, 0.75, 1.0, 1.0, 1.0,
    ]  # fmt: skip


def test_cosine_starts_at_one_and_ends_at_its_final_factor() -> None:
    plain = Cosine()
    assert factors(plain, [0, 25, 50, 100], 100) == pytest.approx([1.0, 0.5 + 0.125**0.5, 0.5, 0])
    low = Cosine(warmup_steps=2, final_factor=0.1)
    assert factors(low, [0, 1, 2, 6, 10], 10) == pytest.approx([0.5, 1.0, 1.0, 0.55, 0.1])


def test_cosine_beyond_its_end_stays_there() -> None:
    assert Cosine(final_factor=0.1).factor(150, 100) == pytest.approx(0.1)


def test_cosine_that_is_all_warmup() -> None:
    assert factors(Cosine(warmup_steps=4), [0, 3, 4], 4) == [0.25, 1.0, 1.0]


@pytest.mark.parametrize("schedule", [Constant(), Constant(warmup_steps=4), Cosine()])
def test_a_schedule_says_whether_a_longer_run_begins_in_the_same_way(schedule: Schedule) -> None:
    """Only then can a run be extended."""
    steps = list(range(40))
    same = factors(schedule, steps, 40) == factors(schedule, steps, 60)
    assert schedule.depends_on_end is not same
    assert type(schedule).depends_on_end is schedule.depends_on_end  # known without building it


def test_nothing_here_imports_torch() -> None:
    check = "import sys, dit_lab.training.schedules; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0
