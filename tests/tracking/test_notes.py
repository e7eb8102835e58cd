"""Descriptions on MLflow's page, and preservation of the user's edits."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from dit_lab.runs.records import Summary
from dit_lab.tracking.mlflow_store import TAG_CHARACTERS
from dit_lab.tracking.notes import COMMAND, LINE, ROOM, described, facts_of, facts_of_sweep


def test_the_users_words_stay_above_what_the_lab_knows() -> None:
    first = described("", "Why I tried this.", "one")
    assert first == f"Why I tried this.\n\n{LINE}\n\none"
    assert described(first, "", "two") == f"Why I tried this.\n\n{LINE}\n\ntwo"
    typed_on_the_page = first.replace("Why", "Reason:")
    assert described(typed_on_the_page, "", "two").startswith("Reason: I tried this.\n")
    assert described("only this", "", "two") == f"only this\n\n{LINE}\n\ntwo"
    assert described(first, "Another reason.", "two").startswith("Another reason.\n")
    assert described(described("", "", "one"), "", "two") == f"{LINE}\n\ntwo"


def test_a_run_says_its_command_and_the_numbers_that_say_most() -> None:
    results = {
        "eval/loss": 0.37123456,
        "eval/two_sample_pixels_held_out_n360": 0.6,
        "eval/near_copies_pixels_n1080": 2.0,
        "perf/stall_share": 0.1,  # of a job that was trained elsewhere: every metric's last value
    }
    facts = facts_of({COMMAND: "dit-lab train seed=1"}, results)
    assert "```\ndit-lab train seed=1\n```" in facts
    assert "| eval/loss | 0.37123 |" in facts
    assert "| eval/two_sample_pixels_held_out_n360 | 0.6 |" in facts
    assert "near_copies" not in facts and "perf/" not in facts
    assert facts_of({}, {}) == ""


def test_a_long_table_is_cut_between_two_rows() -> None:
    row = f"| {'x' * 100} | better |"
    found = Summary(
        metric="eval/loss", best="x", numbers={}, answer=["One is better."],
        table=["| a | verdict |", "| :-- | :-- |", *[row] * 200],
    )  # fmt: skip
    run: Any = SimpleNamespace(info=SimpleNamespace(experiment_id="7", run_id="abc"))
    text = facts_of_sweep(found, run, [Path("report.html"), Path("report.png")])
    assert text.startswith("One is better.\n\n[report.html](#/experiments/7/runs/abc/artifacts/")
    *rows, end = [line for line in text.splitlines() if line][4:]
    assert set(rows) == {row}
    assert end == f"{200 - len(rows)} more in the report."
    assert len(text) <= ROOM
    whole = described("w" * 9000, "", text)
    assert len(whole) <= TAG_CHARACTERS
    assert whole.endswith(end)
