"""The job table of a sweep, with synthetic numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from dit_lab.cli import sweep_table
from dit_lab.cli.sweep_table import Watcher, print_status
from dit_lab.runs.folder import update_status
from dit_lab.runs.manifest import SweepFolder
from tests.synthetic import finished_sweep


def sweep_of(tmp_path: Path, axes: dict[str, list[str]]) -> SweepFolder:
    finished_sweep(tmp_path, axes, lambda job: 0.5)
    (folder,) = (tmp_path / "sweeps").iterdir()
    return SweepFolder(folder)


@pytest.mark.parametrize(
    ("axes", "shown"),
    [
        ({"seed": ["1", "0"], "model.norm": ["rms", "layer"]}, True),
        ({"optimizer.lr": ["0.1", "0.2"], "objective": ["rectified_flow"]}, True),
        ({"objective": ["rectified_flow", "flow_matching"], "seed": ["0"]}, False),
        ({"seed": ["0"], "objective.time_sampling": ["uniform", "logit_normal"]}, False),
    ],
)
def test_axes_as_typed_and_losses_only_where_they_compare(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], axes: dict[str, list[str]], shown: bool
) -> None:
    print_status(sweep_of(tmp_path, axes))
    heading, first, *_ = capsys.readouterr().out.splitlines()
    losses = ["train", "loss"] if shown else []
    assert heading.split() == ["job", *axes, "status", "step", *losses, "time", "remark"]
    values = [values[0] for values in axes.values()]
    loss = ["0.0008"] if shown else []
    assert first.split() == ["0", *values, "FINISHED", "1,200", *loss, "1", "min", "00", "s"]


def test_a_job_is_said_once_to_move(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once it has made a step, and not where it has ended before anybody had to wait."""
    folder = sweep_of(tmp_path, {"seed": ["0", "1"]})
    manifest = folder.read()
    watcher, (first, second) = Watcher(folder), manifest.jobs
    update_status(folder.run(first), status="RUNNING", step=0, total_steps=2000)
    watcher.on_job_start(first)
    watcher.on_job_start(second)
    watcher.on_look(manifest)
    monkeypatch.setattr(sweep_table, "QUIET_SECONDS", 0)
    watcher.on_job_end(manifest, second)
    capsys.readouterr()
    watcher.on_look(manifest)
    assert capsys.readouterr().out == ""
    update_status(folder.run(first), step=1)
    watcher.on_look(manifest)
    watcher.on_look(manifest)
    assert capsys.readouterr().out == "job 0: step 1 of 2,000 after 0 s\n"
