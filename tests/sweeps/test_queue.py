"""Queries of SLURM and their answers, with a fake `squeue`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dit_lab.sweeps import queue
from dit_lab.sweeps.queue import Queue, is_asked, name_in_queue


@pytest.fixture
def answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that `squeue` prints; without it, it fails. What it was asked is in `asked`."""
    program = tmp_path / "squeue"
    program.write_text(f'#!/bin/sh\necho "$*" >> {tmp_path}/asked\nexec cat {tmp_path}/answers\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(queue, "MOMENT_SECONDS", 0.0)
    return tmp_path / "answers"


def test_attempts_are_found_by_round_and_place(answers: Path) -> None:
    answers.write_text("of_mine-2026-1 3 12_3\nof_mine-2026-2 N/A 15\n")
    asked = Queue("of mine-2026", ["1.3", "2.0", "1.4"])
    assert asked.ids() == {"1.3": "12_3", "2.0": "15"}
    assert [asked.has(attempt) for attempt in ("1.3", "2.0", "1.4")] == [True, True, False]
    words = answers.with_name("asked").read_text().splitlines()[0]
    assert "--name=of_mine-2026-1,of_mine-2026-2" in words


def test_what_was_there_and_is_no_more_is_lost(answers: Path) -> None:
    answers.write_text("")
    asked = Queue("s", ["1.0"])
    assert not asked.lost("1.0")  # it may come
    answers.write_text("s-1 0 7_0\n")
    assert asked.has("1.0")  # an answer from before says nothing of it
    answers.write_text("")
    assert not asked.lost("1.0")  # by an answer that is not old
    asked.ids(at_most=0.0)
    assert asked.lost("1.0")


def test_what_went_before_it_was_seen_is_lost_once_its_round_has_come(
    answers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers.write_text("s-1 0 7_0\n")
    asked = Queue("s", ["1.0", "1.1", "2.0"])
    assert not asked.lost("1.1")  # it may come
    monkeypatch.setattr(queue, "LONG_SECONDS", 0.0)
    assert asked.lost("1.1")
    assert not asked.lost("1.0")
    assert not asked.lost("2.0")  # of a later round, of which nothing was seen


def test_a_queue_that_does_not_answer_may_have_everything(answers: Path) -> None:
    asked = Queue("s", ["1.0"])
    assert asked.ids() is None
    assert asked.has("1.0")
    assert not asked.lost("1.0")


def test_names_are_plain_words() -> None:
    assert name_in_queue("läufe a@b-2026", "12.3") == "l_ufe_a_b-2026-12"


def test_who_is_asked() -> None:
    assert is_asked(["hydra/launcher=submitit_slurm", "hydra.launcher.partition=gpu"])
    assert not is_asked(["hydra/launcher=joblib"])
    assert not is_asked([])
