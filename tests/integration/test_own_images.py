"""From a user's image folder to samples, with the commands of the README."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

pytestmark = pytest.mark.slow

Command = Callable[..., "subprocess.CompletedProcess[str]"]

SMALL = [
    "experiment=own_images",
    "model=pico",
    "sampler.steps=2",
    "sample.num_images=6",
    "training.total_steps=4",
    "training.global_batch_size=8",
    "training.log_every_steps=2",
    "training.checkpoint_every_steps=2",
    "tracking=none",
]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve drawings of each of three shapes, of several sizes and proportions."""
    root = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for shape in ("circle", "line", "square"):
        (root / shape).mkdir()
        for number in range(12):
            width, height = random.integers(24, 80, 2).tolist()
            picture = Image.new("RGB", (width, height), tuple(random.integers(0, 99, 3).tolist()))
            draw = ImageDraw.Draw(picture)
            box = [width // 4, height // 4, 3 * width // 4, 3 * height // 4]
            paint = {"circle": draw.ellipse, "line": draw.line, "square": draw.rectangle}[shape]
            paint(box, fill=tuple(random.integers(150, 256, 3).tolist()))
            picture.save(root / shape / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands are typed."""
    return tmp_path_factory.mktemp("work")


def trained(forked_in: Command, folder: Path, *arguments: str) -> Path:
    done = forked_in(folder, "train", *SMALL, *arguments)
    assert done.returncode == 0, done.stderr
    name = next(text.partition("=")[2] for text in arguments if text.startswith("name="))
    (run,) = folder.glob(f"outputs/runs/{name}/*")
    return run


@pytest.fixture(scope="module")
def shapes(forked_in: Command, folder: Path, images: Path) -> Path:
    """A run on the three classes."""
    return trained(forked_in, folder, f"dataset.root={images}", "name=shapes")


@pytest.fixture(scope="module")
def circles(forked_in: Command, folder: Path, images: Path) -> Path:
    """A run on images alone, decoded by processes of their own."""
    root = f"dataset.root={images / 'circle'}"
    return trained(forked_in, folder, root, "name=circles", "dataset.num_workers=2")


def data_of(run: Path) -> dict[str, object]:
    return json.loads((run / "identity.json").read_text())["data"]


def test_class_folders(shapes: Path, folder: Path, forked_in: Command) -> None:
    data = data_of(shapes)
    assert data["class_names"] == ["circle", "line", "square"]
    assert data["train_images"] + data["validation_images"] == 36
    assert json.loads((shapes / "status.json").read_text())["results"]["eval/loss"] > 0
    done = forked_in(folder, "sample", f"run={shapes}", "out=shapes.npz", "guidance.scale=2")
    assert done.returncode == 0, done.stderr
    with np.load(folder / "shapes.npz") as stored:
        assert stored["arr_0"].shape == (6, 32, 32, 3)
        assert stored["arr_1"].tolist() == [0, 1, 2, 0, 1, 2]


def test_images_alone(circles: Path, folder: Path, forked_in: Command) -> None:
    assert data_of(circles)["num_classes"] == 0
    done = forked_in(folder, "sample", f"run={circles}", "out=circles.png")
    assert done.returncode == 0, done.stderr
    with Image.open(folder / "circles.png") as grid:
        assert grid.mode == "RGB"
    refused = forked_in(folder, "sample", f"run={circles}", "guidance.scale=2")
    assert refused.returncode == 2
    (line,) = refused.stderr.splitlines()
    assert "the model is unconditional (num_classes=0)" in line
