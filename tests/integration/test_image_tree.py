"""2,000 JPEGs of many kinds: checked, encoded, trained from latents and pixels, sampled.

Photographs are scikit-learn's. Pictures of clothes are Fashion-MNIST's if Debian's package is
installed, else scikit-learn's digits. The autoencoder is diffusers' own class with the original's
four levels, narrow, with random weights: no quality is measured.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dit_lab.runs.metrics import read_metrics
from tests.small_autoencoder import save_autoencoder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

Command = Callable[..., "subprocess.CompletedProcess[str]"]

JPEGS, HELD_OUT, SIZE = 2000, 200, 64
PHOTOGRAPHS = 600  # pieces of them among the JPEGs
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
CLASS_NAMES = [*(f"small {number}" for number in range(10)), "china", "flower"]

DATA = ["dataset.root=tree", f"dataset.image_size={SIZE}", "dataset.num_workers=1"]
TRAIN = ["model=pico", "objective=rectified_flow", "precision=fp32", "tracking=none", "seed=3",
         "training.total_steps=6", "training.global_batch_size=16", "training.log_every_steps=1",
         "training.sample_every_steps=0", "evaluation.num_images=0", "sampler.steps=4",
         "sample.num_images=16"]  # fmt: skip


def small_pictures() -> Iterator[tuple[np.ndarray, int]]:
    """uint8 (h, w) and the class."""
    if DEBIAN.is_dir():
        from dit_lab.data.torchvision_sets import FashionMNIST

        clothes = FashionMNIST(split="train", root=DEBIAN)
        images, labels = clothes.fetch(torch.arange(JPEGS), None)
        for pixels, label in zip(images[:, 0], labels, strict=True):
            yield ((pixels + 1) * 127.5).round().numpy().astype(np.uint8), int(label)
    else:
        from sklearn.datasets import load_digits

        digits = load_digits()
        while True:
            for pixels, label in zip(digits.images, digits.target, strict=True):
                yield (pixels * 15.9).astype(np.uint8), int(label)


def pictures() -> Iterator[tuple[Image.Image, int]]:
    """JPEG's modes in sizes from 40 to 300, some smaller than what is asked."""
    from sklearn.datasets import load_sample_images

    random = np.random.default_rng(0)
    photographs = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    small = small_pictures()
    for number in range(JPEGS):
        width, height = (int(side) for side in random.integers(40, 300, 2))
        if number < PHOTOGRAPHS:
            photograph = photographs[number % 2]
            left = int(random.integers(photograph.width - width))
            top = int(random.integers(photograph.height - height))
            picture = photograph.crop((left, top, left + width, top + height))
            yield picture.convert(("RGB", "CMYK", "L")[number % 3]), 10 + number % 2
        else:
            pixels, label = next(small)
            picture = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
            yield picture.convert("RGB") if number % 2 else picture, label


def write_tree(root: Path) -> None:
    """`images/`, the lists, and fourteen odd files of the classes that photographs have."""
    images = root / "images"
    lines = []
    for number, (picture, label) in enumerate(pictures()):
        path = images / f"class {label:02}/{number:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        exif[0x0112] = 1 + number % 8  # orientation, which is ignored
        picture.save(path, quality=60 + number % 40, progressive=number % 5 == 0, exif=exif)
        lines.append(f"{path.relative_to(images)} {label}")
    picture = Image.open(images / "class 10/00000.jpg").convert("RGB")
    grey_picture = picture.convert("L")
    deep = np.asarray(grey_picture).astype(np.uint16) * 257
    odd = {
        "palette.png": picture.convert("P"), "bits.png": picture.convert("1"),
        "alpha.png": picture.convert("RGBA"), "grey alpha.png": picture.convert("LA"),
        "deep.png": Image.fromarray(deep), "lossy.webp": picture,
        "alpha.webp": picture.convert("RGBA"), "animated.gif": picture.convert("P"),
        "plain.bmp": picture, "cmyk.tiff": picture.convert("CMYK"), "grey.tif": grey_picture,
        "wide.png": picture.resize((900, 66)), "tall.jpeg": picture.resize((70, 1200)),
        "one pixel.png": picture.resize((1, 1)),
    }  # fmt: skip
    for name, image in odd.items():
        image.save(images / name)
        lines.insert(0, f"{name} 10")
    np.random.default_rng(1).shuffle(lines)
    (root / "val_labels.txt").write_text("\n".join(lines[:HELD_OUT]) + "\n")
    (root / "train_labels.txt").write_bytes("\r\n".join(["# made", *lines[HELD_OUT:]]).encode())
    (root / "class_names.txt").write_text("\n".join(CLASS_NAMES) + "\n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree, and an autoencoder that makes 4 x 8 x 8 latents of it."""
    folder = tmp_path_factory.mktemp("tree")
    write_tree(folder / "tree")
    save_autoencoder(folder / "vae", (8, 16, 16, 16), layers_per_block=2, scaling_factor=0.5)
    return folder


def run(command_in: Command, folder: Path, *words: str) -> str:
    done = command_in(folder, *words)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def losses(folder: Path, name: str) -> list[float]:
    (found,) = folder.glob(f"outputs/runs/{name}/*")
    rows = read_metrics(found / "metrics.jsonl")
    return [row.metrics["train/loss"] for row in rows if "train/loss" in row.metrics]


def test_check_counts_everything(folder: Path, command_in: Command) -> None:
    """Nothing is unreadable; what is smaller than asked is told."""
    run(command_in, folder, "check", *DATA, "out=report.json", "num_processes=2")
    report = json.loads((folder / "report.json").read_text())
    splits = report["splits"]
    assert sum(split["images"] for split in splits.values()) == JPEGS + 14
    assert [split["unreadable"] for split in splits.values()] == [[], []]
    assert sum(len(split["too_small"]) for split in splits.values()) > 300
    of_photographs = sum(sum(split["class_counts"][10:]) for split in splits.values())
    assert of_photographs == PHOTOGRAPHS + 14


def test_latents_and_pixels_train_the_same(folder: Path, command_in: Command) -> None:
    """The first losses agree to what another order of sums does; all of it is drawn and decoded."""
    said = run(command_in, folder, "encode", *DATA, "codec.path=vae", "out=latents",
               "dtype=float32", "shard_images=512", "num_processes=2")  # fmt: skip
    assert said.splitlines()[-1].startswith("written: ")
    run(command_in, folder, "encode", "--verify", "latents")
    ways = {"cached": ["dataset=latents", "dataset.root=latents"],
            "online": ["dataset=labelled_list", *DATA]}  # fmt: skip
    for name, data in ways.items():
        run(command_in, folder, "train", *TRAIN, *data, "codec.path=vae", "patch=2", f"name={name}")
        (found,) = folder.glob(f"outputs/runs/{name}/*")
        run(command_in, folder, "sample", f"run={found}", f"out={name}.png")
    assert len(losses(folder, "online")) == 6
    assert losses(folder, "cached") == pytest.approx(losses(folder, "online"), rel=1e-5)
    grids = [np.asarray(Image.open(folder / f"{name}.png"), np.int64) for name in ways]
    assert grids[0].size >= 16 * 3 * SIZE**2 and grids[0].std() > 1
    assert np.abs(grids[0] - grids[1]).max() <= 1  # after six steps of almost equal gradients


def test_pixels_themselves_train(folder: Path, command_in: Command) -> None:
    run(command_in, folder, "train", *TRAIN, "dataset=labelled_list", *DATA, "codec=identity",
        "patch=8", "dataset.crop=random", "name=pixels")  # fmt: skip
    (found,) = folder.glob("outputs/runs/pixels/*")
    run(command_in, folder, "sample", f"run={found}", "out=pixels.png")
    assert len(losses(folder, "pixels")) == 6
    assert np.asarray(Image.open(folder / "pixels.png")).size >= 16 * 3 * SIZE**2
