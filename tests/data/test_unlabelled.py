"""`num_classes=0` of every dataset: no classes, and the same images."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from dit_lab.core.types import DataFacts
from dit_lab.data.digits import Digits
from dit_lab.data.facts import dataset_facts
from dit_lab.data.unlabelled import Unlabelled

DIGITS = "dit_lab.data.digits.Digits"


class Mine:
    """A user-defined dataset without support for `num_classes=0`."""

    @staticmethod
    def facts() -> DataFacts:
        return DataFacts(1, 4, 4, 3, ("a", "b", "c"), 5, 1, "mine")


def with_and_without(target: str, **options: Any) -> tuple[DataFacts, DataFacts]:
    load = {"mylab.Mine": Mine}.__getitem__
    return (
        dataset_facts(target, {**options, "num_classes": None}, load=load),
        dataset_facts(target, {**options, "num_classes": 0}, load=load),
    )


@pytest.mark.parametrize("target", [DIGITS, "mylab.Mine"])
def test_facts_without_classes(target: str) -> None:
    labelled, without = with_and_without(target)
    assert (without.num_classes, without.class_names) == (0, ())
    assert without.train_images == labelled.train_images
    assert without.fingerprint not in (labelled.fingerprint, "")
    assert dataset_facts(target, {}, load={"mylab.Mine": Mine}.__getitem__) == labelled


def test_the_images_are_the_same() -> None:
    labelled = Digits(split="train")
    without = pickle.loads(pickle.dumps(Unlabelled(labelled)))
    indices = torch.tensor([3, 0, 700])
    images, labels = without.fetch(indices, None)
    assert torch.equal(images, labelled.fetch(indices, None)[0])
    assert labels.tolist() == [0, 0, 0] and labels.dtype == torch.int64
    assert len(without) == len(labelled)


def test_the_rest_is_the_dataset_s_own() -> None:
    class WithMore:
        manifest = "latents.json"

        def path(self, index: int) -> Path:
            return Path(str(index))

    wrapped = Unlabelled(WithMore())  # type: ignore[arg-type]
    assert (wrapped.manifest, wrapped.path(3)) == ("latents.json", Path("3"))
    assert not hasattr(wrapped, "messages")
