"""The named experiments: all configs compose and build, and the catalogue is correct.

Each recipe trains two steps of a reduced model.
"""

from __future__ import annotations

import gzip
import subprocess
from collections.abc import Callable, Iterator
from itertools import product as combinations_of
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dit_lab.actions.describe import described_shapes, different_trainings
from dit_lab.build.cost import model_cost
from dit_lab.build.parts import build, build_objective
from dit_lab.config import search_path
from dit_lab.config.axes import asks_for_sweep, product, sweep_overrides
from dit_lab.config.compatibility import needs_of_config
from dit_lab.config.compose import compose_train
from dit_lab.config.schema import RunConfig
from dit_lab.config.yaml_files import read_recipe
from dit_lab.core.options import target_of
from dit_lab.reproduce.expected import ONE, is_measured, read_expected, read_published
from dit_lab.runs.folder import read_json
from tests.catalogue import README, written
from tests.small_autoencoder import save_autoencoder

EXPERIMENTS = search_path.experiments()
REDUCED = [
    "model.hidden_size=32", "model.depth=1", "model.num_heads=2", "precision=fp32",
    "training.total_steps=2", "training.global_batch_size=4", "sampler.steps=2",
    "evaluation.loss_images=8", "evaluation.num_images=0", "sample.num_images=2",
    "dataset.num_workers=0", "tracking=none", "name=reduced",
]  # fmt: skip

Fork = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What the recipes expect, small and at random: dataset class -> what is typed for it."""
    folder = tmp_path_factory.mktemp("data")
    draw = np.random.default_rng(0)
    _write_idx(folder / "idx", draw)
    lines = []
    for number in range(16):
        file = folder / f"lists/images/{number % 2}/{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(file)
        lines.append(f"{number % 2}/{number}.png {number % 2}\n")
    (folder / "lists/train_labels.txt").write_text("".join(lines[:12]))
    (folder / "lists/val_labels.txt").write_text("".join(lines[12:]))
    save_autoencoder(folder / "vae", (8, 8, 8, 8))
    lists = ["dataset.num_classes=2", "dataset.image_size=64", f"codec.path={folder}/vae"]
    return {
        "Digits": [],
        "FashionMNIST": [f"dataset.root={folder}/idx"],
        "LabelledList": [f"dataset.root={folder}/lists", *lists],
        "ImageFolder": [f"dataset.root={folder}/lists/images"],
    }


def _write_idx(folder: Path, draw: np.random.Generator) -> None:
    folder.mkdir()
    for split, count in (("train", 2048), ("t10k", 16)):
        for kind, shape in (("images-idx3", (count, 28, 28)), ("labels-idx1", (count,))):
            header = bytes([0, 0, 8, len(shape)])
            header += b"".join(side.to_bytes(4, "big") for side in shape)
            numbers = draw.integers(0, 256 if len(shape) > 1 else 10, shape).astype(np.uint8)
            (folder / f"{split}-{kind}-ubyte.gz").write_bytes(
                gzip.compress(header + numbers.tobytes())
            )


def first_of(name: str) -> list[str]:
    """What is typed for the first job of an experiment alone."""
    typed = [f"experiment={name}"]
    if not asks_for_sweep(typed):
        return typed
    return [*typed, *product(sweep_overrides(typed))[0]]


def from_nothing(name: str) -> list[str]:
    """What lets an experiment that begins from trained weights begin without them."""
    begins = read_recipe(EXPERIMENTS[name] / "recipe.yaml").get("init_from")
    return ["init_from=null"] if begins else []


def is_here(config: RunConfig) -> bool:
    """Whether what is composed can be described without the files of a dataset."""
    dataset = config.dataset
    return getattr(dataset, "num_classes", None) is not None or not hasattr(dataset, "root")


def configurations() -> Iterator[tuple[str, list[str]]]:
    """Everything that a folder is about: of each recipe every model, and what is published."""
    for name, folder in EXPERIMENTS.items():
        of = {ONE: None, **{one.configuration: None for one in read_published(folder)}}
        yield from ((name, [] if text == ONE else text.split(" ")) for text in of)


@pytest.mark.parametrize(("name", "typed"), configurations(), ids=str)
def test_it_composes_and_builds(name: str, typed: list[str], data: dict[str, list[str]]) -> None:
    """At its full size, on no device; with as many parameters as it is said to have."""
    overrides = [f"experiment={name}", *typed]
    if not is_here(config := compose_train(overrides)):
        kind = target_of(config.dataset).rpartition(".")[2]
        overrides += data[kind]
    overrides += from_nothing(name)
    sweep = asks_for_sweep(overrides)
    models = different_trainings(overrides) if sweep else {ONE: compose_train(overrides)}
    for config in models.values():
        if hasattr(config.coupling, "pairs"):
            continue  # they have to be drawn first
        shapes, _ = described_shapes(config)
        channels, *size = shapes.latent
        objective = build_objective(config, shapes)
        with torch.device("meta"):
            model = build(
                config, "model", input_size=tuple(size), in_channels=channels,
                num_classes=shapes.data.num_classes, learn_sigma=objective.learn_sigma,
                **needs_of_config(config).arguments(),
            )  # fmt: skip
        cost = model_cost(config, shapes)
        assert cost is not None
        assert sum(weight.numel() for weight in model.parameters()) == cost.parameters


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_two_steps(name: str, forked_in: Fork, tmp_path: Path, data: dict[str, list[str]]) -> None:
    overrides = first_of(name)
    config = compose_train(overrides)
    reduced = [*REDUCED, *data[target_of(config.dataset).rpartition(".")[2]]]
    if getattr(config.objective, "direction_weight", 0) and not is_here(config):
        reduced.append("objective.direction_weight=0")
    done = forked_in(tmp_path, "train", *overrides, *reduced, *from_nothing(name))
    assert done.returncode == 0, done.stdout + done.stderr
    (status,) = tmp_path.glob("outputs/runs/reduced/*/status.json")
    assert (read_json(status)["status"], read_json(status)["step"]) == ("FINISHED", 2)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_what_is_recorded_is_of_the_recipe(name: str) -> None:
    """The configurations of expected.yaml are those that the recipe makes."""
    folder = EXPERIMENTS[name]
    if not is_measured(folder):
        pytest.skip("nothing is recorded of it")
    typed = sweep_overrides([f"experiment={name}"])
    axes = {one.key_or_group for one in typed if one.is_sweep_override()} - {"seed"}
    for label in read_expected(folder)["measured"]:
        found = set() if label == ONE else {text.partition("=")[0] for text in label.split(" ")}
        assert found == axes


def test_the_list_has_them_all(forked_in: Fork, tmp_path: Path) -> None:
    done = forked_in(tmp_path, "experiments")
    assert done.returncode == 0, done.stderr
    for name, folder in EXPERIMENTS.items():
        (entry,) = (part for part in done.stdout.split("\n\n") if part.startswith(f"{name} "))
        assert search_path.header(folder)["question"] in entry
        assert ("recorded 20" in entry) == is_measured(folder)


def test_the_readme_has_them_as_they_are_recorded() -> None:
    """python -m tests.catalogue writes its table anew."""
    assert written(README.read_text()) == README.read_text()


def test_the_numbers_of_one(forked_in: Fork, tmp_path: Path) -> None:
    done = forked_in(tmp_path, "experiments", "dit")
    assert done.returncode == 0, done.stderr
    rows = [line.split("  ")[0] for line in done.stdout.splitlines() if " eval/fid_" in line]
    sizes = combinations_of(("s", "b", "l", "xl"), ("8", "4", "2"))
    assert rows[1:] == [f"model={size} patch={patch}" for size, patch in sizes]
    assert "published by others, not measured here" in done.stdout
