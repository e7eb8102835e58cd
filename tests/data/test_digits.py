"""The digits dataset: the library's pixels, a fixed stratified split, no randomness."""

from __future__ import annotations

import hashlib

import pytest
import torch
from sklearn.datasets import load_digits

from dit_lab.data.digits import Digits
from dit_lab.data.digits_facts import DIGITS_SPLIT, digits_facts


@pytest.fixture(scope="module")
def train() -> Digits:
    return Digits(split="train")


@pytest.fixture(scope="module")
def validation() -> Digits:
    return Digits(split="validation")


def everything(dataset: Digits) -> tuple[torch.Tensor, torch.Tensor]:
    return dataset.fetch(torch.arange(len(dataset)), None)


def test_sizes_types_and_range(train: Digits, validation: Digits) -> None:
    for dataset, size in ((train, 1437), (validation, 360)):
        images, labels = everything(dataset)
        assert len(dataset) == size
        assert images.shape == (size, 1, 8, 8)
        assert images.dtype == torch.float32
        assert labels.shape == (size,)
        assert labels.dtype == torch.int64
        assert images.min() == -1
        assert images.max() == 1


def test_both_splits_together_are_the_librarys_digits(train: Digits, validation: Digits) -> None:
    library = load_digits()
    rows = {
        (*((image.ravel() / 8 - 1).tolist()), int(label))
        for image, label in zip(library.images, library.target, strict=True)
    }
    ours: set[tuple[float, ...]] = set()
    for dataset in (train, validation):
        images, labels = everything(dataset)
        found = {
            (*image.ravel().tolist(), int(label))
            for image, label in zip(images, labels, strict=True)
        }
        assert ours.isdisjoint(found)  # the library's 1,797 images all differ
        ours |= found
    assert ours == rows
    assert len(rows) == 1797


def test_classes_have_equal_shares(train: Digits, validation: Digits) -> None:
    counts = [everything(dataset)[1].bincount() for dataset in (train, validation)]
    share = counts[1] / (counts[0] + counts[1])
    assert torch.allclose(share, torch.tensor(360 / 1797), atol=0.005)  # within one image of 180


def test_the_split_is_the_recorded_one(validation: Digits) -> None:
    """Published numbers rest on this split; another scikit-learn must not move it."""
    digest = hashlib.sha256(everything(validation)[0].numpy()).hexdigest()
    assert digest.startswith("075783dfacee9b7d")


def test_the_split_is_the_librarys(train: Digits, validation: Digits) -> None:
    """In its order too: the images' numbers decide which is drawn when."""
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    parts = train_test_split(digits.images, digits.target, stratify=digits.target, **DIGITS_SPLIT)
    for dataset, pixels, target in zip((train, validation), parts[:2], parts[2:], strict=True):
        images, labels = everything(dataset)
        assert torch.equal(images[:, 0], torch.from_numpy(pixels).float() / 8 - 1)
        assert torch.equal(labels, torch.from_numpy(target))


def test_counters_change_nothing(train: Digits) -> None:
    indices = torch.tensor([5, 0, 1436])
    plain = train.fetch(indices, None)
    counted = train.fetch(indices, torch.tensor([9, 8, 7]))
    assert torch.equal(plain[0], counted[0])
    assert torch.equal(plain[1], counted[1])


def test_what_is_fetched_is_a_copy(train: Digits) -> None:
    images, _ = train.fetch(torch.tensor([0]), None)
    before = images.clone()
    images.zero_()
    assert torch.equal(train.fetch(torch.tensor([0]), None)[0], before)


def test_facts_agree(train: Digits, validation: Digits) -> None:
    facts = digits_facts()
    images, labels = everything(train)
    assert (facts.channels, facts.height, facts.width) == images.shape[1:]
    assert facts.num_classes == len(facts.class_names) == labels.max() + 1
    assert (facts.train_images, facts.validation_images) == (len(train), len(validation))
