"""`dit-lab train` as people use it: finished, rerun, stopped, killed, failed, resumed, tracked."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dit_lab.runs import read_metrics

Command = Callable[..., "subprocess.CompletedProcess[str]"]
Start = Callable[..., "subprocess.Popen[str]"]

UNTRACKED = "tracking=none"


def only_run(root: Path) -> Path:
    (run,) = [path for path in root.glob("runs/tiny/*") if ".before-" not in path.name]
    return run


def status(run: Path) -> dict[str, object]:
    return json.loads((run / "status.json").read_text())


def final_files(run: Path) -> dict[str, bytes]:
    """Everything that a finished run's last checkpoint holds, and its last picture."""
    last = max((run / "checkpoints").glob("step-*"))
    files = {str(p.relative_to(last)): p.read_bytes() for p in last.rglob("*") if p.is_file()}
    files["picture"] = max((run / "samples").glob("*.png")).read_bytes()
    return files


def training_rows(run: Path) -> list[tuple[int, dict[str, float]]]:
    """Logged rows without what depends on the clock."""
    return [
        (row.step, {k: v for k, v in row.metrics.items() if not k.startswith("perf/")})
        for row in read_metrics(run / "metrics.jsonl")
    ]


def wait_for_step(run_root: Path, step: int, process: subprocess.Popen[str]) -> None:
    """Until a run below `run_root` has logged a step."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        rows = [
            row for path in run_root.glob("runs/tiny/*/metrics.jsonl") for row in read_metrics(path)
        ]
        if any(row.step >= step for row in rows):
            return
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.02)
    raise AssertionError("the run did not get there")


@pytest.fixture(scope="module")
def straight(
    tmp_path_factory: pytest.TempPathFactory, command_in: Command, tiny: list[str]
) -> Path:
    """The run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("straight")
    done = command_in(folder, "train", *tiny, UNTRACKED)
    assert done.returncode == 0, done.stderr
    return only_run(folder / "outputs")


def test_a_finished_run_leaves_what_was_promised(straight: Path) -> None:
    end = status(straight)
    assert (end["status"], end["step"], end["total_steps"]) == ("FINISHED", 40, 40)
    assert end["results"]["eval/loss"] < 1.7  # 1.9 for a model that predicts nothing
    assert [step for step, row in training_rows(straight) if "train/loss" in row] == [
        5, 10, 15, 20, 25, 30, 35, 40
    ]  # fmt: skip
    assert [step for step, row in training_rows(straight) if "eval/loss" in row] == [20, 40]
    assert sorted(p.name for p in (straight / "checkpoints").iterdir()) == [
        f"step-{step:08d}" for step in (10, 20, 30, 40)
    ]
    assert sorted(p.name for p in (straight / "samples").iterdir()) == [
        "step-00000020.png", "step-00000040.png"
    ]  # fmt: skip
    assert not list(straight.rglob("*.pt")) + list(straight.rglob("*.pkl"))


def test_the_same_command_shows_a_finished_run(
    straight: Path, command_in: Command, tiny: list[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in straight.rglob("*")}
    folder = straight.parents[3]
    done = command_in(folder, "train", *tiny, UNTRACKED)
    assert done.returncode == 0
    assert "already finished" in done.stdout
    assert "eval/loss" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in straight.rglob("*")} == before


@pytest.mark.parametrize("step", [5, 15, 35])
def test_killed_and_rerun_ends_in_the_same_bits(
    step: int, straight: Path, start: Start, command: Command, tiny: list[str], tmp_path: Path
) -> None:
    process = start("train", *tiny, UNTRACKED)
    wait_for_step(tmp_path / "outputs", step, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = command("train", *tiny, UNTRACKED)
    assert done.returncode == 0, done.stderr
    run = only_run(tmp_path / "outputs")
    assert final_files(run) == final_files(straight)
    assert training_rows(run) == training_rows(straight)


def test_sigterm_saves_says_so_and_the_rerun_ends_in_the_same_bits(
    straight: Path, start: Start, command: Command, tiny: list[str], tmp_path: Path
) -> None:
    process = start("train", *tiny, UNTRACKED)
    wait_for_step(tmp_path / "outputs", 15, process)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "stopped and saved" in output
    assert "Traceback" not in output
    run = only_run(tmp_path / "outputs")
    assert status(run)["status"] == "KILLED"
    assert command("train", *tiny, UNTRACKED).returncode == 0
    assert final_files(run) == final_files(straight)
    assert training_rows(run) == training_rows(straight)


def test_a_second_process_is_refused_and_told_who_writes(
    start: Start, command: Command, tiny: list[str], tmp_path: Path
) -> None:
    process = start("train", *tiny, UNTRACKED, "training.total_steps=5000")
    wait_for_step(tmp_path / "outputs", 5, process)
    done = command("train", *tiny, UNTRACKED, "training.total_steps=5000")
    assert done.returncode == 2
    assert f"process {process.pid} on " in done.stderr
    assert process.poll() is None


def test_other_code_is_neither_resumed_nor_shown(
    command: Command, tiny: list[str], tmp_path: Path
) -> None:
    short = [*tiny, UNTRACKED, "training.total_steps=2"]
    assert command("train", *short).returncode == 0
    run = only_run(tmp_path / "outputs")
    identity = json.loads((run / "identity.json").read_text())
    (run / "identity.json").write_text(json.dumps({**identity, "code_hash": "0123456789ab"}))
    done = command("train", *short)
    assert done.returncode == 2
    assert "other source code (0123456789ab" in done.stderr
    done = command("train", *short, "resume=force")
    assert done.returncode == 0
    assert "already finished" in done.stdout
    done = command("train", *short, "resume=never")
    assert done.returncode == 0
    (aside,) = set(run.parent.iterdir()) - {run}
    assert f"the old run is kept in {aside}" in done.stdout
    assert status(run)["status"] == "FINISHED"


def test_a_damaged_checkpoint_is_named_and_skipped(
    straight: Path, start: Start, command: Command, tiny: list[str], tmp_path: Path
) -> None:
    process = start("train", *tiny, UNTRACKED)
    wait_for_step(tmp_path / "outputs", 30, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    run = only_run(tmp_path / "outputs")
    newest = max((run / "checkpoints").glob("step-*")) / "model.safetensors"
    content = bytearray(newest.read_bytes())
    content[-1] ^= 1
    newest.write_bytes(content)
    done = command("train", *tiny, UNTRACKED)
    assert done.returncode == 0
    assert f"skipped a checkpoint: {newest}" in done.stdout
    assert final_files(run) == final_files(straight)


def test_a_failure_is_one_line_and_a_traceback_in_the_log(
    command: Command, tiny: list[str], tmp_path: Path
) -> None:
    # a learning rate at which AdamW overflows float32, so that every later step is not finite
    done = command("train", *tiny, "optimizer.lr=1e38", "training.clip_norm=null")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "failed: FloatingPointError: loss or gradients were not finite" in line
    run = only_run(tmp_path / "outputs")
    end = status(run)
    assert end["status"] == "FAILED"
    assert "FloatingPointError" in end["error"]
    assert "Traceback" in (run / "train.log").read_text()
    with sqlite3.connect(tmp_path / "outputs/mlflow.db") as store:
        assert store.execute("select status from runs").fetchall() == [("FAILED",)]


def test_mlflow_has_everything_once_after_a_kill(
    start: Start, command: Command, tiny: list[str], tmp_path: Path
) -> None:
    process = start("train", *tiny)
    wait_for_step(tmp_path / "outputs", 25, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = command("train", *tiny)
    assert done.returncode == 0, done.stderr
    run = only_run(tmp_path / "outputs")
    with sqlite3.connect(tmp_path / "outputs/mlflow.db") as store:
        runs = store.execute("select run_uuid, status from runs").fetchall()
        assert runs == [(status(run)["tracking_run_id"], "FINISHED")]
        tracked = store.execute("select key, step, value from metrics order by step").fetchall()
        params = dict(store.execute("select key, value from params"))
        tags = dict(store.execute("select key, value from tags"))
        kinds = store.execute("select value from experiment_tags").fetchall()
    for row in read_metrics(run / "metrics.jsonl"):
        for key, value in row.metrics.items():
            if not key.startswith("perf/"):
                assert tracked.count((key, row.step, value)) == 1, (key, row.step)
    assert len({(key, step) for key, step, _ in tracked}) == len(tracked)  # no doubles
    assert params["model.hidden_size"] == "64"
    assert tags["dit_lab.run_folder"] == str(run)
    assert tags["dit_lab.num_threads"] == "1"
    assert kinds == [("custom_model_development",)]  # the page opens on training runs
    names = [path.name for path in (tmp_path / "outputs/mlartifacts").rglob("*") if path.is_file()]
    assert {"config.yaml", "step-00000020.png", "step-00000040.png"} <= set(names)


def test_accumulation_is_the_same_training(
    straight: Path, command: Command, tiny: list[str], tmp_path: Path
) -> None:
    done = command("train", *tiny, UNTRACKED, "training.accumulation=4")
    assert done.returncode == 0, done.stderr
    run = only_run(tmp_path / "outputs")
    assert run.name == straight.name  # accumulation does not decide the weights
    for name in ("model", "ema-0.9"):
        parts, whole = (
            load_file(max((r / "checkpoints").glob("step-*")) / f"{name}.safetensors")
            for r in (run, straight)
        )
        for key, tensor in whole.items():
            # sums in another order; Adam turns rounding of near-zero gradients into lr * steps
            torch.testing.assert_close(parts[key], tensor, atol=2e-4, rtol=0)


@pytest.mark.parametrize("objective", ["ddpm", "flow_matching"])
def test_bf16_and_the_other_objectives_train(
    objective: str, command: Command, tiny: list[str], tmp_path: Path
) -> None:
    changed = [f"objective={objective}", "precision=bf16", "model.activation_checkpointing=true"]
    kept = [text for text in tiny if not text.startswith(("objective", "precision", "sampler="))]
    done = command("train", *kept, *changed, UNTRACKED, "training.total_steps=6")
    assert done.returncode == 0, done.stderr
    end = status(only_run(tmp_path / "outputs"))
    assert end["status"] == "FINISHED"
    assert 0 < end["results"]["eval/loss"] < 20
