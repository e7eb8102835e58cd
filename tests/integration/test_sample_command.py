"""`dit-lab sample` and `dit_lab.load`: samples depend on the run, the seed and the index."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import dit_lab
from dit_lab.core.errors import RequestError

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, forked_in: Command, tiny: list[str]) -> Path:
    """A short run; its last layers are far enough from zero for classes to matter."""
    folder = tmp_path_factory.mktemp("run")
    done = forked_in(folder, "train", *tiny, "tracking=none", "optimizer.lr=0.01")
    assert done.returncode == 0, done.stderr
    (found,) = folder.glob("outputs/runs/tiny/*")
    return found


def arrays(command: Command, folder: Path, *arguments: str) -> tuple[np.ndarray, np.ndarray]:
    out = folder / f"{abs(hash(arguments))}.npz"
    done = command("sample", f"out={out}", *arguments)
    assert done.returncode == 0, done.stderr
    with np.load(out) as stored:
        return stored["arr_0"], stored["arr_1"]


def test_adm_style_arrays_in_class_order(run: Path, command: Command, tmp_path: Path) -> None:
    images, labels = arrays(command, tmp_path, f"run={run}", "sample.num_images=13")
    assert (images.shape, images.dtype, labels.dtype) == ((13, 8, 8, 1), np.uint8, np.int64)
    assert labels.tolist() == [*range(10), 0, 1, 2]


def test_images_do_not_depend_on_count_or_batch_size(
    run: Path, forked: Command, tmp_path: Path
) -> None:
    few, _ = arrays(forked, tmp_path, f"run={run}", "sample.num_images=10", "sample.batch_size=7")
    many, _ = arrays(forked, tmp_path, f"run={run}", "sample.num_images=70")
    assert (many[:10] == few).all()
    other, _ = arrays(forked, tmp_path, f"run={run}", "sample.num_images=10", "sample.seed=1")
    assert (other != few).any()


def test_a_grid_and_a_folder(run: Path, forked: Command, tmp_path: Path) -> None:
    done = forked("sample", f"run={run}", "sample.num_images=20")
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "samples.png") as grid:
        assert grid.size == (10 * 65 - 1, 2 * 80 - 1)  # 64 pixels, a caption and gaps of one
    done = forked(
        "sample", f"run={run}", "out=pictures", "sample.labels=[3]", "sample.num_images=2"
    )
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == [
        "00000-class-3.png",
        "00001-class-3.png",
    ]


def test_sampler_guidance_and_weights_can_be_chosen_anew(
    run: Path, forked: Command, tmp_path: Path
) -> None:
    own, _ = arrays(forked, tmp_path, f"run={run}")
    for choice in (
        ["sampler=heun", "sampler.steps=4"],
        ["guidance.scale=4"],
        ["sample.weights=raw"],
    ):
        other, _ = arrays(forked, tmp_path, f"run={run}", *choice)
        assert (other != own).any(), choice
    scale, _ = arrays(forked, tmp_path, f"run={run}", "guidance.scale=4")
    weight, _ = arrays(forked, tmp_path, f"run={run}", "guidance.weight=3")
    assert (scale == weight).all()


def test_the_model_can_be_asked_less_often_than_the_sampler_steps(
    run: Path, forked: Command, tmp_path: Path
) -> None:
    """Twice at the start, and at every third of the eighteen steps that are left."""
    chosen = ("sampler=ddim", "sampler.steps=20", "sampler.cache_interval=3")
    done = forked("sample", f"run={run}", *chosen, "out=few.npz")
    assert done.returncode == 0, done.stderr
    assert "NFE 8" in done.stdout


def test_a_checkpoint_can_be_named(run: Path, forked: Command, tmp_path: Path) -> None:
    checkpoint = run / "checkpoints/step-00000010"
    done = forked("sample", f"run={checkpoint}", "out=early.png")
    assert done.returncode == 0, done.stderr
    assert "at step 10" in done.stdout


def test_the_library_draws_what_the_command_draws(
    run: Path, forked: Command, tmp_path: Path
) -> None:
    images, labels = arrays(forked, tmp_path, f"run={run}", "sample.labels=[2,5]")
    model = dit_lab.load(str(run))
    again, given = model.sample([2, 5], num_images=len(images))
    assert torch.equal(again, torch.from_numpy(images))
    assert given.tolist() == labels.tolist()


UNUSABLE: dict[str, tuple[Any, dict[str, Any]]] = {
    "labels=[12]: 12 is no class; allowed: 0 to 9": ([12], {}),
    "labels=[10]: 10 is no class": ([10], {}),  # the label of no class
    "labels=[-1]: -1 is no class": (np.array([-1]), {}),
    "num_images=0: expected a whole number at least 1": (None, {"num_images": 0}),
    "num_images=2.0: expected a whole number": (None, {"num_images": 2.0}),
    "seed=-1: expected a whole number at least 0": ([1], {"seed": -1}),
    "seed=None: expected a whole number": ([1], {"seed": None}),
    **{
        f"labels={shown}: expected one or more whole numbers": (labels, {})
        for shown, labels in {
            "3": 3, "[]": [], "[1.5]": [1.5], "[True]": [True], "[[1]]": [[1]], "31": "31",
            "{1: 2}": {1: 2}, "tensor([[1, 2]])": torch.tensor([[1, 2]]), "tensor(1)":
            torch.tensor(1), "[1. 2.]": np.array([1.0, 2.0]), "[None]": [None],
            "tensor([True])": torch.tensor([True]),
        }.items()
    },
}  # fmt: skip


def test_what_the_library_cannot_draw(run: Path) -> None:
    model = dit_lab.load(str(run))
    for says, (labels, how) in UNUSABLE.items():
        with pytest.raises(RequestError, match=f"^{re.escape(says)}"):
            model.sample(labels, **how)


def test_labels_may_be_a_list_a_tensor_or_an_array(run: Path) -> None:
    model = dit_lab.load(str(run))
    expected, _ = model.sample([3, 1])
    for labels in ((3, 1), torch.tensor([3, 1]), np.array([3, 1]), list(np.array([3, 1]))):
        assert torch.equal(model.sample(labels)[0], expected)


OWN_OBJECTIVE = """
from dit_lab.objectives.rectified_flow import RectifiedFlow

class Weighted(RectifiedFlow):
    samplers = ("heun",)

    def __init__(self, *, strength: float, learn_sigma: bool = False) -> None:
        super().__init__(learn_sigma=learn_sigma)
        self.strength = strength

    def loss(self, predict, batch):
        terms = super().loss(predict, batch)
        return {"loss": self.strength * terms["loss"]}
"""


def test_a_users_own_objective_trains_and_samples(
    forked: Command, tiny: list[str], tmp_path: Path
) -> None:
    (tmp_path / "mylab.py").write_text(OWN_OBJECTIVE)
    (tmp_path / "conf/objective").mkdir(parents=True)
    own = "_target_: mylab.Weighted\nstrength: 2.0\n"
    (tmp_path / "conf/objective/weighted.yaml").write_text(own)
    trusted = "trusted_modules=[mylab]"
    kept = [text for text in tiny if not text.startswith(("objective", "sampler"))]
    arguments = [*kept, "objective=weighted", "sampler.steps=2", "tracking=none"]
    done = forked("train", *arguments, trusted, "training.total_steps=2")
    assert done.returncode == 0, done.stderr
    (own_run,) = tmp_path.glob("outputs/runs/tiny/*")
    assert forked("sample", f"run={own_run}", trusted).returncode == 0
    refused = forked("sample", f"run={own_run}")  # the record's word is not enough
    assert refused.returncode == 2
    assert "add trusted_modules=[mylab]" in refused.stderr
