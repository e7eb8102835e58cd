"""Typical uses of `dit-lab train`: finished, rerun, stopped, killed, resumed, tracked."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

Command = Callable[..., "subprocess.CompletedProcess[str]"]
Start = Callable[..., "subprocess.Popen[str]"]
Fork = Callable[..., Any]
RunIn = Callable[[Path], Any]

UNTRACKED = "tracking=none"


@pytest.fixture(scope="module")
def straight(
    tmp_path_factory: pytest.TempPathFactory, forked_in: Command, tiny: list[str], run_in: RunIn
) -> Any:
    """The run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("straight")
    done = forked_in(folder, "train", *tiny, UNTRACKED)
    assert done.returncode == 0, done.stderr
    return run_in(folder)


def assert_same(found: Any, straight: Any) -> None:
    """Equal in every bit, logged rows included."""
    assert found.root.name == straight.root.name
    assert found.final_files() == straight.final_files()
    assert found.rows() == straight.rows()
    assert found.status["status"] == "FINISHED"
    assert found.status["results"] == straight.status["results"]


def test_a_finished_run_leaves_what_was_promised(straight: Any) -> None:
    end = straight.status
    assert (end["status"], end["step"], end["total_steps"]) == ("FINISHED", 40, 40)
    assert end["results"]["eval/loss"] < 1.7  # 1.9 for a model that predicts nothing
    assert [step for step, row in straight.rows() if "train/loss" in row] == [
        5, 10, 15, 20, 25, 30, 35, 40
    ]  # fmt: skip
    assert [step for step, row in straight.rows() if "eval/loss" in row] == [20, 40]
    assert straight.checkpoints() == [10, 20, 30, 40]
    assert sorted(p.name for p in (straight.root / "samples").iterdir()) == [
        "step-00000020.png", "step-00000040.png"
    ]  # fmt: skip
    assert sorted(p.name for p in straight.root.iterdir()) == [
        "checkpoints", "config.yaml", "identity.json", "lease", "metrics.jsonl", "samples",
        "status.json", "train.log",
    ]  # fmt: skip
    assert (straight.root / "lease").read_bytes() == b""
    assert not list(straight.root.rglob("*.pt")) + list(straight.root.rglob("*.pkl"))


def test_the_same_command_shows_a_finished_run(
    straight: Any, forked_in: Command, tiny: list[str]
) -> None:
    before = straight.times()
    folder = straight.root.parents[3]
    done = forked_in(folder, "train", *tiny, UNTRACKED)
    assert done.returncode == 0
    assert "already finished" in done.stdout
    assert "eval/loss" in done.stdout
    assert straight.times() == before


def test_a_finished_run_is_drawn_from_and_measured_as_asked(
    straight: Any, forked: Command, tiny: list[str], tmp_path: Path, run_in: RunIn
) -> None:
    """Without training, once for each request; a key that concerns neither asks for nothing."""
    shutil.copytree(straight.root.parents[3] / "outputs", tmp_path / "outputs")
    run = run_in(tmp_path)
    weights = run.final_files()

    def found(*overrides: str, says: str) -> dict[str, set[str]]:
        done = forked("train", *tiny, UNTRACKED, *overrides)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"{says}: {run.root}")
        assert run.final_files() == weights
        kinds = ("samples", "evaluations")
        return {kind: {path.name for path in run.root.glob(f"{kind}/*.*")} for kind in kinds}

    before = found("training.log_every_steps=7", says="already finished")
    assert before == found("evaluation.num_images=0", says="already finished")
    labels = ["sample.labels=[7]", "sample.num_images=3"]
    drawn = found(*labels, says="already trained")
    assert (len(drawn["samples"] - before["samples"]), drawn["evaluations"]) == (1, set())
    assert drawn == found(*labels, says="already trained")
    measured = found("evaluation.num_images=30", "metric=[memorisation]", says="already trained")
    assert (measured["samples"], len(measured["evaluations"])) == (drawn["samples"], 1)
    both = found("sampler.steps=3", "evaluation.num_images=30", "metric=[memorisation]",
                 says="already trained")  # fmt: skip
    assert (len(both["samples"] - drawn["samples"]), len(both["evaluations"])) == (1, 2)
    refused = forked("train", *tiny, UNTRACKED, "evaluation.num_images=29")
    assert refused.returncode == 2
    assert "there are too few to compare" in refused.stderr


@pytest.mark.slow
def test_killed_and_rerun_ends_in_the_same_bits(
    straight: Any,
    start: Start,
    command: Command,
    tiny: list[str],
    tmp_path: Path,
    run_in: RunIn,
) -> None:
    """By the command that people type; the other tests fork theirs, which is faster."""
    process = start("train", *tiny, UNTRACKED)
    deadline = time.monotonic() + 120
    while not list(tmp_path.rglob("step-00000010/COMPLETE")):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert run_in(tmp_path).status["status"] == "RUNNING"
    done = command("train", *tiny, UNTRACKED)
    assert done.returncode == 0, done.stderr
    assert re.search("resumed at step [123]0", done.stdout)
    assert_same(run_in(tmp_path), straight)


@pytest.mark.slow
@pytest.mark.parametrize("step", [5, 35])
def test_killed_early_or_late_it_ends_in_the_same_bits(
    step: int,
    straight: Any,
    fork: Fork,
    forked: Command,
    tiny: list[str],
    tmp_path: Path,
    run_in: RunIn,
    wait_for_step: Callable[..., None],
) -> None:
    process = fork("train", *tiny, UNTRACKED)
    wait_for_step(tmp_path, step, process)
    process.kill()
    assert process.returncode == -signal.SIGKILL
    done = forked("train", *tiny, UNTRACKED)
    assert done.returncode == 0, done.stderr
    assert_same(run_in(tmp_path), straight)


def test_sigterm_saves_says_so_and_the_rerun_ends_in_the_same_bits(
    straight: Any,
    fork: Fork,
    forked: Command,
    tiny: list[str],
    tmp_path: Path,
    run_in: RunIn,
    wait_for_step: Callable[..., None],
) -> None:
    process = fork("train", *tiny, UNTRACKED)
    wait_for_step(tmp_path, 15, process)
    process.send_signal(signal.SIGTERM)
    ended = process.wait()
    assert ended.returncode == 143
    assert "stopped and saved" in ended.stdout
    assert ended.stderr == ""
    run = run_in(tmp_path)
    assert run.status["status"] == "KILLED"
    assert run.checkpoints()[-1] == run.status["step"] >= 15  # nothing is done twice
    assert forked("train", *tiny, UNTRACKED).returncode == 0
    stopped_at = run.status["step"]
    if stopped_at % 10:  # a checkpoint more than the straight run has
        assert set(run.checkpoints()) > set(straight.checkpoints())
    assert_same(run, straight)


@pytest.mark.slow
def test_a_second_process_is_refused_and_told_who_writes(
    fork: Fork,
    forked: Command,
    tiny: list[str],
    tmp_path: Path,
    wait_for_step: Callable[..., None],
) -> None:
    long = [*tiny, UNTRACKED, "training.total_steps=5000"]
    process = fork("train", *long)
    wait_for_step(tmp_path, 5, process)
    for more in ([], ["resume=never"]):
        done = forked("train", *long, *more)
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert f"process {process.pid} on " in line
        assert "wait for it or stop it" in line
    assert process.returncode is None


def test_other_code_is_neither_resumed_nor_shown(
    forked: Command, tiny: list[str], tmp_path: Path, run_in: RunIn
) -> None:
    short = [*tiny, UNTRACKED, "training.total_steps=2"]
    assert forked("train", *short).returncode == 0
    run = run_in(tmp_path)
    files = {**run.identity["code_files"], "dit_lab/models/dit.py": "0123456789ab"}
    changed = {**run.identity, "code_hash": "0123456789ab", "code_files": files}
    (run.root / "identity.json").write_text(json.dumps(changed))
    done = forked("train", *short)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "other source code (dit_lab/models/dit.py changed)" in line
    done = forked("train", *short, "resume=force")
    assert done.returncode == 0
    assert "already finished" in done.stdout
    done = forked("train", *short, "resume=never")
    assert done.returncode == 0
    (aside,) = set(run.root.parent.iterdir()) - {run.root}
    assert f"the old run is kept in {aside}" in done.stdout
    assert run.status["status"] == "FINISHED"
    assert run.identity["code_hash"] != "0123456789ab"
    assert run.identity["forced_over"] == []


def test_a_run_from_before_code_had_a_meaning_goes_on(
    forked: Command, tiny: list[str], tmp_path: Path, run_in: RunIn
) -> None:
    """With one line and a note, which what extends it does not inherit."""
    short = [*tiny, UNTRACKED, "training.total_steps=2"]
    assert forked("train", *short).returncode == 0
    run = run_in(tmp_path)
    old = {
        **run.identity,
        "code_hash": "0123456789ab",
        "code_files": {"dit_lab/rng.py": "0123"},
    }
    del old["code_hash_of"]
    (run.root / "identity.json").write_text(json.dumps(old))
    done = forked("train", f"resume={run.root}", "training.total_steps=4")
    assert done.returncode == 0, done.stderr
    (child,) = set(run.root.parent.iterdir()) - {run.root}
    identity = json.loads((child / "identity.json").read_text())
    assert identity["forced_over"] == [] and "predates" not in identity
    done = forked("train", *short)
    assert done.returncode == 0
    assert "was recorded by a version with other code hashes" in done.stdout
    assert "already finished" in done.stdout


def test_a_run_that_diverges_fails_with_one_line(
    forked: Command,
    tiny: list[str],
    tmp_path: Path,
    store_in: Callable[[Path], None],
    run_in: RunIn,
    tracked_in: Callable[..., Any],
) -> None:
    store_in(tmp_path)
    # a learning rate at which AdamW overflows float32, so that every later step is not finite
    done = forked("train", *tiny, "optimizer.lr=1e18", "training.clip_norm=null")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("dit-lab: diverged: loss or gradients were not finite in 9 of 10 steps")
    run = run_in(tmp_path)
    assert run.status["status"] == "FAILED"
    assert run.status["error"] == line.removeprefix("dit-lab: ")
    diagnosis = json.loads((run.root / "nonfinite.json").read_text())
    assert (diagnosis["first_step"], diagnosis["step"]) == (2, 10)
    assert len(diagnosis["images"]) == 16
    assert [tracked.status for tracked in tracked_in(tmp_path)] == ["FAILED"]


@pytest.mark.slow
def test_mlflow_has_everything_once_after_a_kill(
    straight: Any,
    fork: Fork,
    forked: Command,
    tiny: list[str],
    tmp_path: Path,
    store_in: Callable[[Path], None],
    run_in: RunIn,
    tracked_in: Callable[..., Any],
    wait_for_step: Callable[..., None],
) -> None:
    store_in(tmp_path)
    process = fork("train", *tiny)
    wait_for_step(tmp_path, 25, process)
    process.kill()
    newest = run_in(tmp_path).checkpoints()[-1]  # 10 where the kill found 20 half written
    done = forked("train", *tiny)
    assert done.returncode == 0, done.stderr
    run, (tracked,) = run_in(tmp_path), tracked_in(tmp_path)
    assert (tracked.run_id, tracked.status) == (run.status["tracking_run_id"], "FINISHED")
    assert tracked.rows() == run.rows_by_step() == straight.rows_by_step()
    assert tracked.params["model.hidden_size"] == "64"
    assert tracked.tags["dit_lab.run_folder"] == str(run.root)
    assert tracked.tags["dit_lab.num_threads"] == "1"
    assert tracked.tags["resume.1.step"] == str(newest)
    names = [path.name for path in (tmp_path / "outputs/mlartifacts").rglob("*") if path.is_file()]
    drawn = sorted(name.partition("+timestamp")[0] for name in names if name.endswith(".png"))
    assert "config.yaml" in names and drawn == ["samples+step+20", "samples+step+40"]


def test_accumulation_is_the_same_training(
    straight: Any, forked: Command, tiny: list[str], tmp_path: Path, run_in: RunIn
) -> None:
    options = ["training.accumulation=2", "training.system_metrics=false"]
    done = forked("train", *tiny, UNTRACKED, *options)
    assert done.returncode == 0, done.stderr
    run = run_in(tmp_path)
    assert run.root.name == straight.root.name  # neither decides the weights
    assert "system/" in (straight.root / "metrics.jsonl").read_text()
    assert "system/" not in (run.root / "metrics.jsonl").read_text()
    for name in ("model", "ema-0.9"):
        parts, whole = (
            load_file(r.checkpoint(40) / f"{name}.safetensors") for r in (run, straight)
        )
        for key, tensor in whole.items():
            # sums in another order; Adam turns rounding of near-zero gradients into lr * steps
            torch.testing.assert_close(parts[key], tensor, atol=2e-4, rtol=0)


@pytest.mark.parametrize(
    ("objective", "precision"),
    [
        ("ddpm", "bf16"),
        ("flow_matching", "bf16"),
        pytest.param("flow_matching", "fp8", marks=pytest.mark.extra),
    ],
)
def test_other_precisions_and_objectives_train(
    objective: str, precision: str, forked: Command, tiny: list[str], tmp_path: Path, run_in: RunIn
) -> None:
    selective = "model.activation_checkpointing=selective"
    changed = [f"objective={objective}", f"precision={precision}", selective]
    kept = [text for text in tiny if not text.startswith(("objective", "precision", "sampler="))]
    done = forked("train", *kept, *changed, UNTRACKED, "training.total_steps=6")
    assert done.returncode == 0, done.stderr
    end = run_in(tmp_path).status
    assert end["status"] == "FINISHED"
    assert 0 < end["results"]["eval/loss"] < 20
    assert ("precision=fp8: emulated" in done.stdout + done.stderr) == (precision == "fp8")


def test_a_plain_training_imports_no_compiler(tiny: list[str], tmp_path: Path) -> None:
    """Nor what sharded tensors need: together they take as long as torch itself."""
    script = f"""
import sys
from dit_lab.cli.main import main
assert main({["train", *tiny, UNTRACKED, f"paths.root={tmp_path}"]}) == 0
found = {{"torch._dynamo", "torch.distributed.tensor", "sympy"}} & sys.modules.keys()
assert not found, found
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
