"""Recorded reports are up to date with the recorded values."""

from __future__ import annotations

from pathlib import Path

import pytest

from dit_lab.reproduce.report import RESULTS
from tests.recorded_reports import experiments, written


@pytest.mark.parametrize("folder", experiments(), ids=lambda folder: folder.name)
def test_recorded_reports_are_what_the_lab_says(folder: Path) -> None:
    assert (folder / RESULTS).read_text() == written(folder), "run python -m tests.recorded_reports"
