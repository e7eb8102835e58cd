"""Autoguidance by a weaker run (`guidance.weak_run`), by commands and as a library."""

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
from PIL import Image

import dit_lab
from dit_lab.samplers.guidance import Guidance

Command = Callable[..., "subprocess.CompletedProcess[str]"]

SHORT = ["tracking=none", "patch=4", "optimizer.lr=0.01", "training.total_steps=20",
         "training.sample_every_steps=0", "training.validate_every_steps=0"]  # fmt: skip


@pytest.fixture(scope="module")
def run(
    tmp_path_factory: pytest.TempPathFactory,
    forked_in: Command,
    tiny: list[str],
    run_in: Callable[..., Any],
) -> Path:
    """Two checkpoints, at steps 10 and 20; its last layers are far enough from zero."""
    folder = tmp_path_factory.mktemp("run")
    done = forked_in(folder, "train", *tiny, *SHORT)
    assert done.returncode == 0, done.stderr
    return run_in(folder).root


@pytest.fixture(scope="module")
def earlier(run: Path) -> Path:
    """The run when half of it was done."""
    return run / "checkpoints/step-00000010"


@pytest.fixture
def sample(run: Path, forked: Command, tmp_path: Path) -> Callable[..., tuple[np.ndarray, str]]:
    """`sample("guidance.scale=2")`: ten images of the run, and the line that was printed."""

    def draw(*arguments: str) -> tuple[np.ndarray, str]:
        done = forked("sample", f"run={run}", "out=drawn.npz", *arguments)
        assert done.returncode == 0, done.stderr
        with np.load(tmp_path / "drawn.npz") as stored:
            return stored["arr_0"], done.stdout.strip()

    return draw


def test_a_weak_run_changes_images_and_counts_twice(
    sample: Callable[..., tuple[np.ndarray, str]], earlier: Path
) -> None:
    plain, said = sample()
    assert "NFE 2" in said
    weak, said = sample("guidance.scale=2", f"guidance.weak_run={earlier}")
    assert "10 images from ema-0.9 at step 20, NFE 4" in said
    null, _ = sample("guidance.scale=2")
    assert (weak != plain).any() and (weak != null).any()
    late, said = sample(
        "guidance.scale=2", f"guidance.weak_run={earlier}", "guidance.interval=[0.4,1.0]"
    )
    assert "NFE 3" in said  # of the times 0 and 1/2 one
    assert (late != plain).any() and (late != weak).any()


def test_guidance_away_from_itself_is_none(
    sample: Callable[..., tuple[np.ndarray, str]], run: Path
) -> None:
    """weak + s (model - weak) is the model, up to rounding that may tip a brightness."""
    plain, _ = sample()
    itself, said = sample("guidance.scale=2", f"guidance.weak_run={run}")
    assert "NFE 4" in said
    assert (itself != plain).mean() < 0.01


def test_the_library_draws_what_the_command_draws(
    sample: Callable[..., tuple[np.ndarray, str]], run: Path, earlier: Path
) -> None:
    images, _ = sample("guidance.scale=2", f"guidance.weak_run={earlier}")
    model, weak = dit_lab.load(str(run)), dit_lab.load(str(earlier))
    guidance, counted = Guidance(scale=2.0), []
    again, _ = model.sample(num_images=10, guidance=guidance, weak=weak, on_pass=counted.append)
    assert torch.equal(again, torch.from_numpy(images))
    assert sum(counted) == 4 * 32  # four evaluations of the one chunk
    without, _ = model.sample(num_images=10, guidance=guidance)
    assert not torch.equal(again, without)


def test_raw_weights_are_guided_by_raw_weights(
    sample: Callable[..., tuple[np.ndarray, str]], run: Path, earlier: Path
) -> None:
    images, _ = sample("guidance.scale=2", f"guidance.weak_run={earlier}", "sample.weights=raw")
    model, weak = (dit_lab.load(str(path), weights="raw") for path in (run, earlier))
    again, _ = model.sample(num_images=10, guidance=Guidance(scale=2.0), weak=weak)
    assert torch.equal(again, torch.from_numpy(images))


# ---- measured -----------------------------------------------------------------------------------


def measured(forked: Command, run: Path, *arguments: str) -> tuple[dict[str, Any], str]:
    """The card of the newest evaluation, and what was printed."""
    few = ["evaluation.num_images=30", *arguments]
    done = forked("evaluate", f"run={run}", *few, few_trees=True)
    assert done.returncode == 0, done.stderr
    files = (run / "evaluations").glob("*.json")
    newest = max(files, key=lambda path: path.stat().st_mtime_ns)
    return json.loads(newest.read_text())["card"], done.stdout


def test_the_card_names_the_weak_weights_and_no_path(
    run: Path, earlier: Path, forked: Command, tmp_path: Path
) -> None:
    """So that the same evaluation is the same one wherever the weak run lies."""
    ours = Path(shutil.copytree(run, tmp_path / "ours"))
    weak = ["guidance.scale=2", f"guidance.weak_run={earlier}"]
    card, printed = measured(forked, ours, *weak)
    assert card["guidance"]["weak_run"] == f"{run.name} at step 10, ema-0.9"
    assert card["evaluations_per_image"] == 4.0
    assert "(NFE 4)" in printed
    assert str(earlier) not in json.dumps(card)
    moved = shutil.copytree(run, tmp_path / "moved") / earlier.relative_to(run)
    _, printed = measured(forked, ours, "guidance.scale=2", f"guidance.weak_run={moved}")
    assert printed.splitlines()[-1].startswith("measured before: ")
    plain, _ = measured(forked, ours, "guidance.scale=2")
    assert plain["guidance"]["weak_run"] is None
    assert len(list((ours / "evaluations").iterdir())) == 2


# ---- refused ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def coloured(tmp_path_factory: pytest.TempPathFactory, forked_in: Command, tiny: list[str]) -> Path:
    """A run on three classes of colour images of the size of digits."""
    folder = tmp_path_factory.mktemp("coloured")
    for number, name in enumerate(("blue", "green", "red")):
        (folder / "images" / name).mkdir(parents=True)
        for shade in range(12):
            colour = tuple(20 * shade if band == 2 - number else 9 for band in range(3))
            Image.new("RGB", (8, 8), colour).save(folder / "images" / name / f"{shade}.png")
    data = ["dataset=image_folder", "dataset.root=images", "dataset.image_size=8"]
    kept = [text for text in tiny if not text.startswith("dataset=")]
    few = ["training.total_steps=2", "training.global_batch_size=4"]
    done = forked_in(folder, "train", *kept, *SHORT, *data, *few)
    assert done.returncode == 0, done.stderr
    (found,) = folder.glob("outputs/runs/tiny/*")
    return found


@pytest.mark.parametrize("verb", ["sample", "evaluate"])
def test_a_run_on_other_images_is_refused(
    verb: str, run: Path, coloured: Path, forked: Command, tmp_path: Path
) -> None:
    more = ["evaluation.num_images=30"] if verb == "evaluate" else []
    weak = ["guidance.scale=2", f"guidance.weak_run={coloured}"]
    done = forked(verb, f"run={run}", *weak, *more)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    expected = "was trained for 3 x 8 x 8 in 3 classes, this model for 1 x 8 x 8 in 10 classes"
    assert f"guidance.weak_run={coloured}: {expected}" in line
    assert list(tmp_path.iterdir()) == []
    assert not (run / "evaluations").exists()
