"""Working folders of the cases, each built once and copied for every case.

empty    nothing
recipe   a tiny experiment: `experiment=tiny` trains in seconds
tiny     the same, trained to its end
averaged the same, with power-function averages at steps 2 and 4
own      the same with a user-defined objective and dataset, in `mylab.py`
latent   the same on a folder of images, through an autoencoder with random weights
encoded  such images, encoded beforehand, and the same trained on that
grid     a named sweep of the tiny experiment, stopped before its first job
swept    a sweep of it over two learning rates and two batch sizes, with all jobs done
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

RECIPE = """# question: does it stop where it should?
defaults:
  - override /model: pico
  - override /patch: "4"
  - override /objective: rectified_flow
  - override /sampler: euler
  - override /dataset: digits
  - override /codec: identity
  - override /precision: fp32
  - override /tracking: none

model: {hidden_size: 16, depth: 1, num_heads: 2}
ema: {decays: [0.9]}
sampler: {steps: 2}
sample: {num_images: 4}
training:
  total_steps: 4
  global_batch_size: 8
  log_every_steps: 2
  checkpoint_every_steps: 2
evaluation: {loss_images: 8, num_images: 0}
"""


def recipe_of_sweep(seeds: str) -> str:
    """The recipe of a named sweep over seeds."""
    axes = f"hydra:\n  mode: MULTIRUN\n  sweeper: {{params: {{seed: '{seeds}'}}}}\n"
    return RECIPE + axes


OWN_PARTS = """import torch

from dit_lab.objectives.rectified_flow import RectifiedFlow
from dit_lab.core.types import DataFacts


class OwnFlow(RectifiedFlow):
    samplers = ("euler", "heun")


class Noise:
    @staticmethod
    def facts():
        return DataFacts(
            channels=2, height=8, width=8, num_classes=0, class_names=(), train_images=8,
            validation_images=8, fingerprint="noise",
        )

    def __init__(self, *, split): ...

    def __len__(self):
        return 8

    def fetch(self, indices, counters):
        return torch.zeros(len(indices), 2, 8, 8), torch.zeros_like(indices)
"""

POWERS = ["ema.power_stds=[0.05,0.1]", "ema.snapshot_every_steps=2"]

Run = Callable[[list[str]], None]
"""Runs a command of the lab in the current folder."""


def empty(run: Run) -> None:
    """Nothing."""


def recipe(run: Run) -> None:
    """The tiny experiment."""
    write("experiments/tiny/recipe.yaml", RECIPE)


def tiny(run: Run) -> None:
    """A run that has ended."""
    recipe(run)
    run(["train", "experiment=tiny"])


def averaged(run: Run) -> None:
    """A run that has ended and kept averages."""
    recipe(run)
    run(["train", "experiment=tiny", *POWERS])


def own(run: Run) -> None:
    """Build a run with a user-defined objective and dataset: two channels, no classes."""
    recipe(run)
    write("mylab.py", OWN_PARTS)
    write("conf/objective/flow.yaml", "_target_: mylab.OwnFlow\n")
    write("conf/dataset/noise.yaml", "_target_: mylab.Noise\n")
    own_parts = ["objective=flow", "dataset=noise", "trusted_modules=[mylab]"]
    run(["train", "experiment=tiny", *own_parts])


def latent(run: Run) -> None:
    """A run on images in class folders, through an autoencoder."""
    recipe(run)
    class_folders(Path())
    autoencoder(Path("vae"), seed=0)
    data = ["dataset=image_folder", "dataset.root=images", "dataset.image_size=8"]
    run(["train", "experiment=tiny", *data, "codec=vae", "codec.path=vae", "patch=1"])


def encoded(run: Run) -> None:
    """Cached latents of images in class folders, and a run on them."""
    recipe(run)
    class_folders(Path())
    autoencoder(Path("vae"), seed=0)
    data = ["dataset=image_folder", "dataset.root=images", "dataset.image_size=8"]
    run(["encode", *data, "codec.path=vae", "out=latents"])
    run(["train", "experiment=tiny", "dataset=latents", "dataset.root=latents", "codec=vae",
         "codec.path=vae", "patch=1"])  # fmt: skip


def grid(run: Run) -> None:
    """A sweep of which nothing has run."""
    from dit_lab.sweeps.plan import plan_sweep
    from dit_lab.sweeps.run import find_or_create_sweep

    write("experiments/grid/recipe.yaml", recipe_of_sweep("0,1"))
    find_or_create_sweep(plan_sweep(["experiment=grid"]))


def swept(run: Run) -> None:
    """A sweep of four jobs that have finished."""
    from dit_lab.sweeps.plan import plan_sweep
    from dit_lab.sweeps.run import find_or_create_sweep

    recipe(run)
    axes = ["optimizer.lr=0.001,0.002", "training.global_batch_size=8,4"]
    folder = find_or_create_sweep(plan_sweep(["experiment=tiny", *axes]))
    manifest = folder.read()
    for job in manifest.jobs:
        run(["train", "experiment=tiny", *job.overrides])
        job.status = "FINISHED"
    folder.write(manifest)


STARTS: dict[str, Callable[[Run], None]] = {
    made.__name__: made
    for made in (empty, recipe, tiny, averaged, own, latent, encoded, grid, swept)
}
UNTRAINED = ("empty", "recipe", "grid")  # which are made without torch


# ---- changing a folder --------------------------------------------------------------------------


def write(name: str | Path, content: str | bytes, folder: Path = Path()) -> None:
    """A file, with the folders that it lies in."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def wrote(name: str, content: str | bytes) -> Callable[[Path], None]:
    """Prepares a folder by one file."""
    return lambda folder: write(name, content, folder)


def deleted(name: str) -> Callable[[Path], None]:
    """Prepares a folder by deleting a file."""
    return lambda folder: (folder / name).unlink()


def only_sweep(folder: Path) -> Path:
    """The sweep that lies in a folder."""
    (sweep,) = folder.glob("outputs/sweeps/*")
    return sweep


def only_run(folder: Path) -> Path:
    """The run that was trained in a folder."""
    (config,) = folder.glob("outputs/runs/*/*/config.yaml")
    return config.parent


def newest(folder: Path) -> Path:
    """The newest checkpoint of that run."""
    return max((only_run(folder) / "checkpoints").glob("step-*"))


def in_run(change: Callable[[Path], object]) -> Callable[[Path], None]:
    """Prepare a folder by applying `change` to its run."""
    return lambda folder: change(only_run(folder)) and None


def removed(name: str) -> Callable[[Path], None]:
    """Prepares a folder by removing a file of its run."""
    return in_run(lambda run: (run / name).unlink())


def replaced(name: str, old: str, new: str) -> Callable[[Path], None]:
    """Prepares a folder by replacing text in a file of its run."""

    def change(run: Path) -> None:
        text = (run / name).read_text()
        assert old in text, f"{name} has no {old!r}"
        (run / name).write_text(text.replace(old, new))

    return in_run(change)


def with_json(name: str, **changes: Any) -> Callable[[Path], None]:
    """Prepares a folder by changing keys of a JSON file of its run; None removes one."""

    def change(run: Path) -> None:
        content = {**json.loads((run / name).read_text()), **changes}
        kept = {key: value for key, value in content.items() if value is not None}
        (run / name).write_text(json.dumps(kept))

    return in_run(change)


def all_of(*changes: Callable[[Path], object]) -> Callable[[Path], None]:
    """Prepares a folder by several changes, one after the other."""

    def change(folder: Path) -> None:
        for step in changes:
            step(folder)

    return change


# ---- checkpoints --------------------------------------------------------------------------------


def killed(folder: Path) -> None:
    """Leave the run as after a kill between the checkpoints of steps 2 and 4."""
    shutil.rmtree(newest(folder))
    with_json("status.json", status="RUNNING", step=3, results=None)(folder)


def unfinished(folder: Path) -> None:
    """Leave the run as after a kill right after its last checkpoint."""
    with_json("status.json", status="RUNNING", results=None)(folder)


def truncated(folder: Path) -> None:
    """Truncate a file of the newest checkpoint."""
    file = newest(folder) / "model.safetensors"
    os.truncate(file, file.stat().st_size - 10)


def flipped(folder: Path) -> None:
    """Flip one bit of the newest checkpoint."""
    flip(newest(folder) / "ema-0.9.safetensors")


def flip(file: Path) -> None:
    """Change the last bit of a file."""
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def all_flipped(folder: Path) -> None:
    """Flip one bit of every checkpoint."""
    for file in only_run(folder).glob("checkpoints/*/model.safetensors"):
        flip(file)


def unmarked(folder: Path) -> None:
    """Remove the completion marker of the newest checkpoint."""
    (newest(folder) / "COMPLETE").unlink()


def foreign(folder: Path) -> None:
    """Replace the newest checkpoint by a complete one of another run."""
    from dit_lab.training.checkpoint_store import CheckpointStore

    shutil.rmtree(newest(folder))
    store = CheckpointStore(only_run(folder) / "checkpoints", run="0123456789ab", warn=print)
    store.save(4, tensors={"model": {}}, state={"step": 4})


# ---- data ---------------------------------------------------------------------------------------


def image(path: Path, size: int = 8) -> None:
    """A grey PNG."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size), (128, 128, 128)).save(path)


def class_folders(folder: Path, *, classes: int = 2, each: int = 6) -> None:
    """`images/0`, `images/1` ... with PNGs."""
    for label in range(classes):
        for number in range(each):
            image(folder / f"images/{label}/{number}.png")


def lists(folder: Path, *, train: str = "a.png 0\n", validation: str = "a.png 0\n") -> None:
    """Lists of labelled images below `data`, and the image that they name."""
    image(folder / "data/images/a.png")
    write("data/train_labels.txt", train, folder)
    write("data/val_labels.txt", validation, folder)


def autoencoder(path: Path, *, seed: int) -> None:
    """A tiny autoencoder in diffusers format with random weights; halves the sides once."""
    import diffusers
    import torch

    torch.manual_seed(seed)
    network = diffusers.AutoencoderKL(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
    )
    network.save_pretrained(path)
