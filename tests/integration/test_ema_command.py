"""`dit-lab ema`: post-hoc EMA of any length, also of killed or extended runs, and sampling."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import dit_lab

Command = Callable[..., "subprocess.CompletedProcess[str]"]
Fork = Callable[..., Any]
RunIn = Callable[[Path], Any]

POWERS = ["ema.power_stds=[0.05,0.1]", "ema.snapshot_every_steps=5", "tracking=none"]
STEPS = list(range(5, 41, 5))


@pytest.fixture(scope="module")
def straight(
    tmp_path_factory: pytest.TempPathFactory, forked_in: Command, tiny: list[str], run_in: RunIn
) -> Any:
    """The run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("straight")
    done = forked_in(folder, "train", *tiny, *POWERS)
    assert done.returncode == 0, done.stderr
    return run_in(folder)


def snapshots(root: Path) -> dict[str, bytes]:
    """File -> content, of all snapshots."""
    files = [file for file in root.glob("averages/step-*/*") if file.is_file()]
    return {str(file.relative_to(root)): file.read_bytes() for file in files}


def steps_of(root: Path) -> list[int]:
    return sorted(int(path.name[5:]) for path in root.glob("averages/step-*"))


def test_snapshots_are_kept_and_nothing_else_changes(
    straight: Any, forked: Command, tiny: list[str], tmp_path: Path, run_in: RunIn
) -> None:
    """The run has the name, the weights and the samples that it has without them."""
    assert steps_of(straight.root) == STEPS
    done = forked("train", *tiny, "tracking=none")
    assert done.returncode == 0, done.stderr
    plain = run_in(tmp_path)
    assert plain.root.name == straight.root.name
    assert not (plain.root / "averages").exists()
    for name in ("model", "ema-0.9", "optimizer/state"):
        file = f"checkpoints/step-00000040/{name}.safetensors"
        assert (plain.root / file).read_bytes() == (straight.root / file).read_bytes()
    assert plain.rows() == straight.rows()


@pytest.mark.slow
@pytest.mark.parametrize("lost", [False, True])
def test_killed_and_rerun_they_are_the_same_bits(
    lost: bool,
    straight: Any,
    fork: Fork,
    forked: Command,
    tiny: list[str],
    tmp_path: Path,
    run_in: RunIn,
    wait_for_step: Callable[..., None],
) -> None:
    """Also where the kill came between a checkpoint and the snapshot of its step."""
    process = fork("train", *tiny, *POWERS)
    wait_for_step(tmp_path, 25, process)
    process.kill()
    run = run_in(tmp_path)
    if lost:
        newest = run.checkpoints()[-1]
        for step in steps_of(run.root):
            if step >= newest:
                shutil.rmtree(run.root / f"averages/step-{step:08d}")
    done = forked("train", *tiny, *POWERS)
    assert done.returncode == 0, done.stderr
    assert snapshots(run.root) == snapshots(straight.root)


def test_an_extended_run_takes_them_along(
    straight: Any, forked: Command, tmp_path: Path, run_in: RunIn
) -> None:
    done = forked(
        "train", f"resume={straight.root}", "training.total_steps=50", *POWERS,
        f"paths.root={tmp_path}/outputs",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    run = run_in(tmp_path)
    assert steps_of(run.root) == [*STEPS, 45, 50]
    done = forked("ema", str(run.root), "--std", "0.07")
    assert done.returncode == 0, done.stderr
    assert "power-0.07 at step 50 from 10 snapshots, relative error of its profile" in done.stdout


def test_a_width_is_made_sampled_and_measured(straight: Any, forked: Command) -> None:
    done = forked("ema", str(straight.root), "--std", "0.1")
    assert done.returncode == 0, done.stderr
    file = straight.root / "averages/power-0.1-step-00000040.safetensors"
    assert done.stdout == (
        f"power-0.1 at step 40 from 8 snapshots, relative error of its profile 0: {file}\n"
    )
    made = load_file(file)
    kept = load_file(straight.root / "averages/step-00000040/power-0.1.safetensors")
    exact = load_file(straight.root / "checkpoints/step-00000040/power-0.1.safetensors")
    assert made.keys() == kept.keys() == exact.keys()
    for name, tensor in made.items():
        assert tensor.dtype == exact[name].dtype == torch.float32
        assert kept[name].dtype == torch.float16
        assert torch.equal(kept[name], exact[name].half())
        # what was kept is taken as it is, but for coefficients near 1e-15 of the others
        torch.testing.assert_close(tensor, kept[name].float(), rtol=1e-6, atol=1e-9)

    done = forked("sample", f"run={straight.root}", "sample.weights=power:0.1", "out=a.npz")
    assert done.returncode == 0, done.stderr
    assert "10 images from power-0.1 at step 40" in done.stdout
    loaded = dit_lab.load(str(straight.root), weights="power:0.1")
    assert (loaded.weights, loaded.step) == ("power-0.1", 40)
    assert torch.equal(
        loaded.model.state_dict()["x_embedder.proj.weight"], made["x_embedder.proj.weight"]
    )

    done = forked(
        "evaluate", f"run={straight.root}", "sample.weights=power:0.1",
        "evaluation.num_images=64", few_trees=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (card,) = [json.loads(path.read_text())["card"] for path in straight.root.glob("evaluations/*")]
    assert (card["weights"], card["step"]) == ("power-0.1", 40)


def test_a_chosen_checkpoint_means_its_step(straight: Any, forked: Command, tmp_path: Path) -> None:
    chosen = straight.root / "checkpoints/step-00000020"
    sample = ["sample", f"run={chosen}", "sample.weights=power:0.15", "out=a.npz"]
    for std in ("0.15", "0.12"):
        assert forked("ema", str(straight.root), "--std", std).returncode == 0
    done = forked(*sample)
    assert done.returncode == 2
    assert f"not made yet; dit-lab ema {straight.root} --std 0.15 --step 20" in done.stderr
    done = forked("ema", str(chosen), "--std", "0.15")
    assert "power-0.15 at step 20 from 4 snapshots" in done.stdout
    done = forked(*sample)
    assert "10 images from power-0.15 at step 20" in done.stdout
    early = np.load(tmp_path / "a.npz")["arr_0"]
    done = forked("sample", f"run={straight.root}", *sample[2:])
    assert "10 images from power-0.15 at step 40" in done.stdout
    assert (np.load(tmp_path / "a.npz")["arr_0"] != early).any()


@pytest.mark.slow
def test_averages_may_be_dropped_on_the_way_but_not_taken_up(
    fork: Fork,
    forked: Command,
    tiny: list[str],
    tmp_path: Path,
    run_in: RunIn,
    wait_for_step: Callable[..., None],
) -> None:
    process = fork("train", *tiny, *POWERS)
    wait_for_step(tmp_path, 25, process)  # by which the checkpoint of step 10 is whole
    process.kill()
    done = forked("train", *tiny, "tracking=none")
    assert done.returncode == 0, done.stderr
    assert "resumed at step" in done.stdout
    assert max(steps_of(run_in(tmp_path).root)) < 40
    done = forked(
        "train", f"resume={run_in(tmp_path).root}", "training.total_steps=50", *POWERS,
        f"paths.root={tmp_path}/other",
    )  # fmt: skip
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "ema.power_stds: " in line and "step-00000040 was written without" in line
