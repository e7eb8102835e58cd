"""Warnings of libraries go to train.log, not to the terminal."""

from __future__ import annotations

import logging
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from dit_lab.cli.main import answered


def warned(filename: str) -> int:
    """A command in which a file warns."""

    def work() -> int:
        warnings.warn_explicit("mind the gap", UserWarning, filename, 1)
        return 0

    return answered(work)


def test_a_library_warns_in_the_log(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """torch's loader, about more workers than there are cores."""

    def load() -> int:
        DataLoader(torch.arange(4), num_workers=10_000)  # type: ignore[arg-type, var-annotated]
        return 0

    with caplog.at_level(logging.INFO, "dit_lab"):
        assert answered(load) == 0
    assert "UserWarning: This DataLoader will create 10000 worker" in caplog.text
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("library", [torch.__file__, logging.__file__, warnings.__file__])
def test_any_library_does(library: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert warned(library) == 0
    assert capsys.readouterr().err == ""


def test_the_user_s_own_code_warns_at_the_terminal(
    tmp_path: Path,
) -> None:
    with pytest.warns(UserWarning, match="mind the gap"):
        assert warned(str(tmp_path / "mine.py")) == 0


def test_who_asks_for_warnings_gets_them() -> None:
    script = (
        "import warnings, logging\n"
        "from dit_lab.cli.main import answered\n"
        "answered(lambda: warnings.warn_explicit('gap', UserWarning, logging.__file__, 1) or 0)"
    )
    found = [
        subprocess.run([sys.executable, *asked, "-c", script], capture_output=True, text=True)
        for asked in ((), ("-W", "default"))
    ]
    assert found[0].stderr == ""
    assert "UserWarning: gap" in found[1].stderr
