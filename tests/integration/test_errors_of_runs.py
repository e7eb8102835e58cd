"""Refusals and failures that are detected with torch; see test_errors.py."""

from __future__ import annotations

import pytest

from tests.errors.cases import CASES
from tests.errors.lab import Lab


@pytest.mark.parametrize("title", [title for title, case in CASES.items() if case.slow])
def test_said_in_one_line(title: str, lab: Lab) -> None:
    outcome = lab.outcome(CASES[title])
    if outcome.could_not:
        pytest.skip(outcome.could_not)
    outcome.check(CASES[title])


def test_what_a_failed_run_leaves(lab: Lab) -> None:
    """Its log and the checkpoint before, nothing of the one that it failed to write."""
    full = lab.outcome(CASES["a disk that is full at the second checkpoint"])
    if full.could_not:
        pytest.skip(full.could_not)
    run = "outputs/runs/tiny/HASH/"
    left = {name.removeprefix(run) for name in full.changed if name.startswith(run)}
    assert {"train.log", "checkpoints/step-00000002/COMPLETE"} <= left
    assert {name.split("/")[1] for name in left if "checkpoints/" in name} == {"step-00000002"}


def test_training_goes_on_without_the_tracker(lab: Lab) -> None:
    away = lab.outcome(CASES["a server that does not answer"])
    assert "outputs/runs/tiny/HASH/metrics.jsonl" in away.changed
    assert "outputs/runs/tiny/HASH/checkpoints/step-00000004/COMPLETE" in away.changed
    assert away.out.count("cannot be updated") == 1
    assert "result: eval/loss" in away.out
