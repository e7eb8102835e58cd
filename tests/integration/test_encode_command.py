"""`dit-lab encode`, and training on its output: same results as on images, safe against kills.

The autoencoder is diffusers' own class, with random weights and few channels.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dit_lab.actions.encode import claimed
from dit_lab.codecs.autoencoder import Autoencoder
from dit_lab.data.image_folder import ImageFolder
from dit_lab.data.images import is_flipped
from dit_lab.data.latent_facts import read_manifest
from dit_lab.data.latents import Latents
from dit_lab.runs.metrics import read_metrics
from tests.errors.starts import autoencoder

Command = Callable[..., "subprocess.CompletedProcess[str]"]

COUNT = 60
DATA = ["dataset=image_folder", "dataset.root=images", "dataset.image_size=8",
        "dataset.horizontal_flip=true", "dataset.num_workers=0"]  # fmt: skip
ENCODE = [*DATA, "codec.path=vae", "codec.chunk_images=4", "shard_images=12"]
LATENTS = ["dataset=latents", "dataset.num_workers=0"]
TRAIN = ["codec.path=vae", "model=pico", "model.depth=1", "patch=1", "precision=fp32",
         "objective=rectified_flow", "sampler.steps=2", "sample.num_images=4",
         "training.total_steps=5", "training.global_batch_size=8", "training.log_every_steps=1",
         "training.sample_every_steps=0", "evaluation.num_images=0", "tracking=none"]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 images in two classes, and an autoencoder."""
    folder = tmp_path_factory.mktemp("encode")
    random = np.random.default_rng(0)
    for number in range(COUNT):
        path = folder / f"images/{number % 2}/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8)).save(path)
    autoencoder(folder / "vae", seed=0)
    return folder


def encode(forked_in: Command, folder: Path, out: str, *more: str) -> str:
    """Encodes; what was printed."""
    done = forked_in(folder, "encode", *ENCODE, f"out={out}", *more)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.fixture(scope="module")
def straight(folder: Path, forked_in: Command) -> Path:
    """Encoded by one process that nobody disturbed."""
    encode(forked_in, folder, "straight")
    return folder / "straight"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "lease"}


def test_every_image_and_its_mirror_are_there(folder: Path, straight: Path) -> None:
    manifest = read_manifest(straight)
    assert manifest.plan.mirrors == 2
    assert manifest.plan.moments_shape == [8, 4, 4]
    codec = Autoencoder(path=folder / "vae", chunk_images=4)
    for split in ("train", "validation"):
        images = ImageFolder(
            split=split,  # type: ignore[arg-type]
            root=folder / "images",
            image_size=8,
            horizontal_flip=True,
        )
        latents = Latents(split=split, root=straight)  # type: ignore[arg-type]
        assert len(latents) == len(images) == manifest.plan.images(split)
        everything = torch.arange(len(images))
        pixels, labels = images.fetch(everything, None)
        moments, found_labels = latents.fetch(everything, None)
        assert torch.equal(labels, found_labels)
        assert torch.equal(moments, codec.moments(pixels).half())
        mirrored, _ = latents.fetch(everything, everything + 100)
        flipped = is_flipped(0, everything + 100)
        assert 0 < flipped.sum() < len(flipped)
        assert torch.equal(mirrored[~flipped], moments[~flipped])
        of_mirrors = codec.moments(pixels.flip(-1)).half()
        torch.testing.assert_close(mirrored[flipped], of_mirrors[flipped], atol=0, rtol=2e-3)


def test_shards_are_full_but_the_last(straight: Path) -> None:
    names = {path.name for path in straight.iterdir() if path.suffix == ".safetensors"}
    manifest = read_manifest(straight)
    train = manifest.plan.images("train")
    assert names == set(manifest.shards)
    assert len(manifest.plan.shards("train")) == -(-train // 12) > 3


@pytest.mark.slow
def test_two_processes_write_the_same_bytes(
    folder: Path, straight: Path, forked_in: Command
) -> None:
    encode(forked_in, folder, "together", "num_processes=2")
    assert contents(folder / "together") == contents(straight)


@pytest.mark.slow
def test_killed_twice_and_rerun_has_the_same_bytes(
    folder: Path, straight: Path, forked_in: Command, fork_in: Any
) -> None:
    out = folder / "killed"
    for shards in (1, 3):
        process = fork_in(folder, "encode", *ENCODE, "out=killed")
        deadline = time.monotonic() + 120
        while process.printed().count("images") < 1 and process.returncode is None:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.kill()
        assert process.returncode == -signal.SIGKILL
        assert len(list(out.glob("*.safetensors"))) >= shards - 1
        assert not (out / "latents.json").exists()
    encode(forked_in, folder, "killed")
    assert contents(out) == contents(straight)
    assert read_manifest(out).fingerprint == read_manifest(straight).fingerprint


def test_the_same_command_again_changes_nothing(
    folder: Path, straight: Path, forked_in: Command
) -> None:
    before = {path: path.stat().st_mtime_ns for path in straight.glob("*.safetensors")}
    said = encode(forked_in, folder, "straight")
    assert said.startswith(f"written: {straight}, ")
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_shard_is_somebody_elses_or_done(tmp_path: Path) -> None:
    with claimed(tmp_path / "shard") as mine, claimed(tmp_path / "shard") as again:
        assert (mine, again) == (True, False)
    with claimed(tmp_path / "removed when all is done" / "shard") as mine:
        assert not mine


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "number"),
    [
        pytest.param(1, signal.SIGTERM, id="1"),
        pytest.param(2, signal.SIGUSR1, id="2"),
    ],
)
def test_a_stop_keeps_what_is_written(
    folder: Path, straight: Path, fork_in: Any, forked_in: Command, processes: int, number: int
) -> None:
    """On shards of four images, of which there are enough for the signal to come in time."""
    small = [*ENCODE, "shard_images=4", f"num_processes={processes}"]
    out = folder / f"stopped-{processes}"
    process = fork_in(folder, "encode", *small, f"out={out}")
    while not list(out.glob("*.safetensors")):
        assert process.returncode is None, process.wait()
        time.sleep(0.005)
    process.send_signal(number)
    done = process.wait()
    assert done.returncode == 143
    assert "the same command goes on from there" in done.stdout
    kept = {file.name: file.read_bytes() for file in out.glob("*.safetensors")}
    assert kept and not (out / "latents.json").exists()
    assert forked_in(folder, "encode", *small, f"out={out}").returncode == 0
    whole = contents(out)
    assert kept.items() <= whole.items()
    assert forked_in(folder, "encode", *small, "out=small").returncode == 0
    assert whole == contents(folder / "small")
    shutil.rmtree(folder / "small")


def losses(folder: Path, name: str) -> list[float]:
    (run,) = folder.glob(f"outputs/runs/{name}/*")
    rows = read_metrics(run / "metrics.jsonl")
    return [row.metrics["train/loss"] for row in rows if "train/loss" in row.metrics]


def test_training_is_the_same_with_and_without(
    folder: Path, straight: Path, forked_in: Command
) -> None:
    """Exactly with float32 moments; float16 rounds them to 11 bits."""
    encode(forked_in, folder, "exact", "dtype=float32", "codec.chunk_images=8", "shard_images=8")
    for name, data in {
        "online": [*DATA, "codec.chunk_images=8"],
        "exact": [*LATENTS, "dataset.root=exact", "codec.chunk_images=8"],
        "cached": [*LATENTS, "dataset.root=straight"],
    }.items():
        done = forked_in(folder, "train", *TRAIN, *data, f"name={name}")
        assert done.returncode == 0, done.stderr
    online, exact, cached = (losses(folder, name) for name in ("online", "exact", "cached"))
    assert len(online) == 5
    assert exact == pytest.approx(online, rel=1e-6)  # batches cut the images into other chunks
    assert cached == pytest.approx(online, rel=1e-4)


def test_a_run_from_latents_is_a_run(folder: Path, straight: Path, forked_in: Command) -> None:
    """It draws images and measures them against the images that were encoded."""
    more = ["dataset=latents", "dataset.root=straight", "name=measured", "evaluation.num_images=30"]
    more.append("dataset.num_workers=1")  # the others read in the process that trains
    done = forked_in(folder, "train", *TRAIN, *more, few_trees=True)
    assert done.returncode == 0, done.stderr
    (run,) = folder.glob("outputs/runs/measured/*")
    identity = json.loads((run / "identity.json").read_text())
    assert identity["data_fingerprint"] == read_manifest(straight).fingerprint
    done = forked_in(folder, "sample", f"run={run}", "out=grid.png")
    assert done.returncode == 0, done.stderr
    assert Image.open(folder / "grid.png").size[0] > 16
    moved = (folder / "vae").rename(folder / "moved")
    try:
        lost = forked_in(folder, "sample", f"run={run}", "out=other.png")
        assert lost.returncode == 2 and "codec.path" in lost.stderr
        found = forked_in(folder, "sample", f"run={run}", "out=other.png", f"codec.path={moved}")
        assert found.returncode == 0, found.stderr
    finally:
        moved.rename(folder / "vae")
    assert (folder / "other.png").read_bytes() == (folder / "grid.png").read_bytes()


def test_every_byte_is_verified(folder: Path, straight: Path, forked_in: Command) -> None:
    done = forked_in(folder, "encode", "--verify", "straight")
    assert (done.returncode, done.stderr) == (0, "")
    copy = folder / "copy"
    copy.mkdir()
    for path in straight.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    shard = copy / "train-00001.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    done = forked_in(folder, "encode", "--verify", "copy")
    assert done.returncode == 2
    assert "1 of " in done.stderr and "train-00001.safetensors" in done.stderr
    shard.unlink()
    (copy / "latents.json").unlink()
    encode(forked_in, folder, "copy")
    assert contents(copy) == contents(straight)


def test_bad_images_are_skipped_and_named(folder: Path, forked_in: Command, tmp_path: Path) -> None:
    images = tmp_path / "images/a"
    images.mkdir(parents=True)
    for number in range(20):
        source = folder / f"images/0/{2 * number}.png"
        (images / f"{number:02}.png").write_bytes(source.read_bytes())
    (images / "05.png").write_bytes(b"")
    (tmp_path / "vae").symlink_to(folder / "vae")
    asked = [*ENCODE, "out=latents"]
    done = forked_in(tmp_path, "encode", *asked)
    assert done.returncode == 2
    assert "05.png: cannot be read as an image" in done.stderr
    done = forked_in(tmp_path, "encode", *asked, "dataset.on_bad_image=skip")
    assert done.returncode == 2 and "holds latents of another configuration" in done.stderr
    done = forked_in(tmp_path, "encode", *asked[:-1], "out=other", "dataset.on_bad_image=skip")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("skipped ") == 1
