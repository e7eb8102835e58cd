"""A process without progress is ended with its stacks; one that progresses or waits is not."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from dit_lab.training.watchdog import Watchdog

HANGS = """
import sys, time
from pathlib import Path
from dit_lab.training.watchdog import Watchdog

def hang():
    time.sleep(60)

folder = Path(sys.argv[1])
with Watchdog(folder, index=0, seconds=1, progress=lambda: 0, on_hang=print):
    hang()
"""


def test_a_hang_is_ended_with_its_stack(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HANGS, str(tmp_path)], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 1
    assert done.stdout == (
        "no process made progress for 1 s; stack traces of all processes are in "
        f"{tmp_path}/stacks-*.txt; the same command resumes from the last checkpoint\n"
    )
    stacks = (tmp_path / "stacks-0.txt").read_text()
    assert "in hang" in stacks and "in _watch" in stacks


def watch(folder: Path, heard: list[str], index: int = 0, *, alive: bool) -> Watchdog:
    return Watchdog(
        folder,
        index=index,
        seconds=0.4,
        progress=time.monotonic_ns if alive else lambda: 0,
        on_hang=heard.append,
    )


def test_progress_is_no_hang(tmp_path: Path) -> None:
    """Nor is waiting for one that is busy. A false alarm would end the test's own process."""
    heard: list[str] = []
    with watch(tmp_path, heard, alive=True), watch(tmp_path, heard, 1, alive=False):
        time.sleep(1.5)
    assert heard == []
    assert not tmp_path.exists()  # it had nothing else


def test_stacks_of_an_earlier_start_are_removed(tmp_path: Path) -> None:
    (tmp_path / "stacks-0.txt").write_text("old")
    with watch(tmp_path, [], alive=True):
        assert list(tmp_path.iterdir()) == []


def test_nobody_is_watched_without_a_limit(tmp_path: Path) -> None:
    with Watchdog(
        tmp_path / "none", index=0, seconds=None, progress=lambda: 0, on_hang=lambda text: None
    ):
        pass
    assert not (tmp_path / "none").exists()
