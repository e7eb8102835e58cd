"""Shards of latents: reading of single rows, few open files, errors."""

from __future__ import annotations

import os
import pickle
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dit_lab.core.errors import RequestError
from dit_lab.core.types import DataFacts
from dit_lab.data import latents as module
from dit_lab.data.images import is_flipped
from dit_lab.data.latent_facts import Manifest, Plan
from dit_lab.data.latents import Latents

IMAGES, SHARD_IMAGES, SHAPE = 10, 3, (2, 4, 4)


@pytest.fixture
def moments() -> torch.Tensor:
    """Moments (N, 2, M, H, W) of images and their mirror images."""
    random = torch.Generator().manual_seed(0)
    return torch.randn(IMAGES, 2, *SHAPE, generator=random).half()


@pytest.fixture
def folder(tmp_path: Path, moments: torch.Tensor) -> Path:
    """Four shards of the moments, written by safetensors; image i has label i."""
    facts = DataFacts(
        channels=3, height=8, width=8, num_classes=IMAGES, class_names=tuple("0123456789"),
        train_images=IMAGES, validation_images=0, fingerprint="made",
    )  # fmt: skip
    plan = Plan(
        data=asdict(facts), codec="made", mirrors=2, moments_shape=list(SHAPE), dtype="float16",
        shard_images=SHARD_IMAGES, chunk_images=1,
    )  # fmt: skip
    shards = {}
    for name, rows in zip(
        plan.shards("train"), torch.arange(IMAGES).split(SHARD_IMAGES), strict=True
    ):
        save_file({"moments": moments[rows].contiguous(), "labels": rows}, tmp_path / name)
        shards[name] = {"bytes": (tmp_path / name).stat().st_size, "sha256": ""}
    Manifest(plan=plan, shards=shards, source={}).write(tmp_path)
    return tmp_path


def opened_files(folder: Path) -> int:
    links = (Path("/proc/self/fd") / name for name in os.listdir("/proc/self/fd"))
    return sum(link.exists() and link.resolve().parent == folder for link in links)


def test_rows_are_those_that_were_written(folder: Path, moments: torch.Tensor) -> None:
    """In any order and repeatedly; mirror images as selected by the counters."""
    indices = torch.tensor([9, 0, 3, 3, 5, 8, 1])
    found, labels = Latents(split="train", root=folder).fetch(indices, None)
    assert torch.equal(found, moments[indices, 0]) and torch.equal(labels, indices)
    counters = indices + 100
    found, labels = Latents(split="train", root=folder, seed=1).fetch(indices, counters)
    flipped = is_flipped(1, counters)
    assert 0 < flipped.sum() < len(flipped)
    assert torch.equal(found, moments[indices, flipped.long()]) and torch.equal(labels, indices)


def test_few_shards_are_open(
    folder: Path, moments: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "OPEN_SHARDS", 2)
    latents = Latents(split="train", root=folder)
    for index in (0, 4, 8, 9, 1, 0):
        found, _ = latents.fetch(torch.tensor([index]), None)
        assert torch.equal(found[0], moments[index, 0])
        assert opened_files(folder) <= 2


def test_open_files_are_not_handed_over(folder: Path, moments: torch.Tensor) -> None:
    """A worker started by `spawn` opens its own files."""
    latents = Latents(split="train", root=folder)
    latents.fetch(torch.tensor([0]), None)
    copy = pickle.loads(pickle.dumps(latents))
    assert torch.equal(copy.fetch(torch.tensor([4]), None)[0][0], moments[4, 0])


def test_a_shard_that_shrinks_is_named(folder: Path) -> None:
    latents = Latents(split="train", root=folder)
    latents.fetch(torch.tensor([0]), None)
    os.truncate(folder / "train-00000.safetensors", 300)
    with pytest.raises(RequestError, match=r"00000.safetensors: ends too early; copy it again"):
        latents.fetch(torch.tensor([2]), None)


def test_another_tensor_is_no_shard(folder: Path) -> None:
    """A file of the right size, with rows of another shape."""
    file = folder / "train-00000.safetensors"
    size = file.stat().st_size
    content = file.read_bytes().replace(b"[3,2,2,4,4]", b"[3,2,4,2,4]")
    assert len(content) == size
    file.write_bytes(content)
    with pytest.raises(RequestError, match=r"not a shard of latents \(rows of F16 \[2, 4, 2, 4\]"):
        Latents(split="train", root=folder).fetch(torch.tensor([0]), None)
