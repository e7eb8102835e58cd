"""Files of MNIST and CIFAR-10: same data as torchvision, compressed or not; damage is refused."""

from __future__ import annotations

import gzip
import pickle
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import datasets
from torchvision.datasets.utils import calculate_md5

from dit_lab.core.errors import RequestError
from dit_lab.data.facts import dataset_facts
from dit_lab.data.torchvision_facts import CIFAR_FILES, CIFAR_NAMES, CLASS_NAMES, IDX_FILES
from dit_lab.data.torchvision_sets import CIFAR10, MNIST, FashionMNIST

FASHION = "dit_lab.data.torchvision_sets.FashionMNIST"
COUNTS = {"train": 7, "validation": 3}


def idx(array: np.ndarray) -> bytes:
    """The bytes of an idx file: LeCun's format for arrays of bytes."""
    head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return head + array.astype(np.uint8).tobytes()


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """The four files, where torchvision puts them."""
    folder = tmp_path / "FashionMNIST/raw"
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for split, count in COUNTS.items():
        images, labels = IDX_FILES[split]
        (folder / images).write_bytes(idx(random.integers(0, 256, (count, 28, 28))))
        (folder / labels).write_bytes(idx(random.integers(0, 10, count)))
    return folder


@pytest.mark.parametrize("split", COUNTS)
def test_images_are_torchvisions(raw: Path, split: str) -> None:
    root = raw.parents[1]
    ours = FashionMNIST(split=split, root=root)  # type: ignore[arg-type]
    theirs = datasets.FashionMNIST(root, train=split == "train")
    images, labels = ours.fetch(torch.arange(COUNTS[split]), None)
    assert torch.equal(labels, theirs.targets)
    assert torch.equal(images, theirs.data.unsqueeze(1) / 127.5 - 1)
    assert len(ours) == COUNTS[split]


def test_class_names_are_torchvisions() -> None:
    assert list(CLASS_NAMES["FashionMNIST"]) == datasets.FashionMNIST.classes
    assert len(CLASS_NAMES["MNIST"]) == len(datasets.MNIST.classes)


def test_packed_or_side_by_side_is_the_same_data(raw: Path, tmp_path: Path) -> None:
    facts = dataset_facts(FASHION, {"root": raw.parents[1]})
    assert (facts.channels, facts.height, facts.width, facts.num_classes) == (1, 28, 28, 10)
    assert (facts.train_images, facts.validation_images) == (7, 3)
    packed = tmp_path / "packed"
    packed.mkdir()
    for file in raw.iterdir():
        (packed / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
    assert dataset_facts(FASHION, {"root": packed}) == facts
    assert dataset_facts(FASHION, {"root": raw}) == facts
    flipped = dataset_facts(FASHION, {"root": raw, "horizontal_flip": True})
    assert flipped.fingerprint != facts.fingerprint


def test_without_classes(raw: Path) -> None:
    root = {"root": raw.parents[1]}
    without = dataset_facts(FASHION, {**root, "num_classes": 0})
    labelled = dataset_facts(FASHION, {**root, "num_classes": None})
    assert labelled == dataset_facts(FASHION, root)
    assert (without.num_classes, without.class_names) == (0, ())
    assert without.fingerprint != labelled.fingerprint


def test_mirrors_depend_on_seed_and_counter(raw: Path) -> None:
    data = FashionMNIST(split="train", root=raw, horizontal_flip=True, seed=1)
    indices = torch.arange(7)
    plain, _ = data.fetch(indices, None)
    drawn, _ = data.fetch(indices, indices + 40)
    mirrored = (drawn != plain).flatten(1).any(1)
    assert 0 < mirrored.sum() < 7
    assert torch.equal(drawn[mirrored], plain[mirrored].flip(-1))


def refusal(root: Path) -> str:
    with pytest.raises(RequestError) as refused:
        dataset_facts(FASHION, {"root": root})
    return str(refused.value)


def test_files_that_are_not_whole_are_refused(raw: Path) -> None:
    images, labels = (raw / name for name in IDX_FILES["train"])
    whole = images.read_bytes()
    images.write_bytes(whole[:-1])
    assert f"{images}: has 5,503 bytes where its header asks for 5,504" in refusal(raw)
    images.write_bytes(b"\0\0\x0d" + whole[3:])
    assert f"{images}: no idx file of bytes" in refusal(raw)
    images.write_bytes(whole)
    labels.write_bytes(idx(np.zeros(6)))
    assert f"{labels}: has 6 labels for 7 x 28 x 28 images" in refusal(raw)
    labels.unlink()
    assert f"{labels.name} is missing" in refusal(raw)
    labels.with_name(f"{labels.name}.gz").write_bytes(gzip.compress(b"x" * 99)[:-9])
    assert f"{labels.name}.gz: cannot be read" in refusal(raw)


def test_a_download_that_is_not_possible_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Port 9 of this machine refuses connections."""
    monkeypatch.setattr(datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])
    with pytest.raises(RequestError) as refused:
        dataset_facts("dit_lab.data.torchvision_sets.MNIST", {"root": tmp_path, "download": True})
    assert "MNIST cannot be downloaded" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_packed_files_in_their_place_are_unpacked_without_a_network(
    raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchvision's own way of using what was fetched before."""
    resources = []
    for file in sorted(raw.iterdir()):
        packed = file.with_name(f"{file.name}.gz")
        packed.write_bytes(gzip.compress(file.read_bytes(), mtime=0))
        resources.append((packed.name, calculate_md5(packed)))
        file.unlink()
    monkeypatch.setattr(datasets.FashionMNIST, "resources", resources)
    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", ["http://127.0.0.1:9/"])
    assert len(FashionMNIST(split="train", root=raw.parents[1], download=True)) == 7


def test_mnist_has_a_folder_of_its_own(raw: Path) -> None:
    root = raw.parents[1]
    shutil.copytree(root / "FashionMNIST", root / "MNIST")
    assert len(MNIST(split="validation", root=root)) == 3


# ---- CIFAR-10 -----------------------------------------------------------------------------------


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """CIFAR-10 files with five images each; torchvision's expected hashes are replaced."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    random = np.random.default_rng(0)
    for name in CIFAR_FILES[:-1]:
        data = random.integers(0, 256, (5, 3072), np.uint8)
        content = {"data": data, "labels": random.integers(0, 10, 5).tolist()}
        (folder / name).write_bytes(pickle.dumps(content))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list(CIFAR_NAMES)}))

    def listed(names: tuple[str, ...]) -> list[list[str]]:
        return [[name, calculate_md5(folder / name)] for name in names]

    (meta,) = listed(CIFAR_FILES[-1:])
    monkeypatch.setattr(datasets.CIFAR10, "train_list", listed(CIFAR_FILES[:5]))
    monkeypatch.setattr(datasets.CIFAR10, "test_list", listed(CIFAR_FILES[5:6]))
    monkeypatch.setitem(datasets.CIFAR10.meta, "md5", meta[1])
    return folder


def test_cifar_is_torchvisions(cifar: Path) -> None:
    ours = CIFAR10(split="train", root=cifar.parent)
    theirs = datasets.CIFAR10(cifar.parent)
    images, labels = ours.fetch(torch.arange(25), None)
    assert labels.tolist() == theirs.targets
    assert torch.equal(((images + 1) * 127.5).round().byte(),
                       torch.from_numpy(theirs.data).permute(0, 3, 1, 2))  # fmt: skip


def test_cifar_with_other_bytes_is_refused(cifar: Path) -> None:
    target = "dit_lab.data.torchvision_sets.CIFAR10"
    before = dataset_facts(target, {"root": cifar.parent})
    file = cifar / "data_batch_3"
    file.write_bytes(file.read_bytes() + b".")
    assert dataset_facts(target, {"root": cifar.parent}).fingerprint != before.fingerprint
    with pytest.raises(RequestError, match="not found or corrupted"):
        CIFAR10(split="train", root=cifar.parent)
    file.unlink()
    with pytest.raises(RequestError, match=r"data_batch_3 is missing.*download=true"):
        dataset_facts(target, {"root": cifar.parent})
