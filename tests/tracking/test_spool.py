"""The metrics file: each row is written completely when `on_metrics` returns."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dit_lab.runs.folder import FINISHED
from dit_lab.runs.metrics import read_metrics
from dit_lab.tracking.spool import MetricsFile, finite_metrics


def rows(path: Path) -> list[tuple[int, dict[str, float]]]:
    return [(row.step, row.metrics) for row in read_metrics(path)]


def test_a_row_can_be_read_before_the_file_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    file = MetricsFile(path)
    file.on_metrics(10, {"train/loss": 0.5})
    assert rows(path) == [(10, {"train/loss": 0.5})]
    file.on_metrics(20, {"train/loss": 0.25, "train/lr": 1e-4})
    file.on_end(status=FINISHED, step=20, error=None)
    assert rows(path) == [(10, {"train/loss": 0.5}), (20, {"train/loss": 0.25, "train/lr": 1e-4})]


def test_tensors_and_integers_become_floats_and_infinities_counters() -> None:
    given = {"a": torch.tensor(0.5), "b": 3, "c": float("inf"), "train/d": torch.tensor(torch.nan)}
    found = finite_metrics(given)
    assert found == {"a": 0.5, "b": 3.0, "nonfinite/c": 1.0, "nonfinite/train/d": 1.0}
    assert all(type(value) is float for value in found.values())


def test_a_torn_last_line_does_not_damage_the_next_row(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    MetricsFile(path).on_metrics(1, {"a": 1.0})
    with open(path, "a") as file:
        file.write('{"step": 2, "seco')
    MetricsFile(path).on_metrics(3, {"a": 3.0})
    assert rows(path) == [(1, {"a": 1.0}), (3, {"a": 3.0})]
    assert len(path.read_text().splitlines()) == 2


@pytest.mark.parametrize("free_bytes", [0, 10])  # the write fails; a part of it goes in
def test_what_a_full_disk_refuses_is_written_later(
    free_bytes: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "metrics.jsonl"
    file = MetricsFile(path)
    file.on_metrics(1, {"a": 1.0})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The kernel lets no file of this process grow any further.
    largest = path.stat().st_size + free_bytes
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, limits[1]))
    try:
        file.on_metrics(2, {"a": 2.0})
        file.on_metrics(3, {"a": 3.0})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert rows(path) == [(1, {"a": 1.0})]
    file.on_metrics(4, {"a": 4.0})
    assert rows(path) == [(step, {"a": float(step)}) for step in (1, 2, 3, 4)]
    assert len([entry for entry in caplog.records if "cannot write" in entry.message]) == 1


def test_a_kill_loses_no_row_that_was_reported(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    code = (
        "import itertools, sys, pathlib\n"
        "from dit_lab.tracking.spool import MetricsFile\n"
        "file = MetricsFile(pathlib.Path(sys.argv[1]))\n"
        "for step in itertools.count():\n"
        "    file.on_metrics(step, {'train/loss': step / 7})\n"
        "    print(step, flush=True)\n"
    )
    writer = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    for _ in range(200):
        reported = int(writer.stdout.readline())
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    found = rows(path)
    assert len(found) > reported
    assert found == [(step, {"train/loss": step / 7}) for step in range(len(found))]
