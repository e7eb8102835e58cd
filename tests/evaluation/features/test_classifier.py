"""The classifier trained on a dataset's own images: accuracy, caching, determinism."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dit_lab.core.errors import StopRequested
from dit_lab.core.types import ImageSet
from dit_lab.data.digits import Digits
from dit_lab.data.digits_facts import digits_facts
from dit_lab.evaluation.features import classifier
from dit_lab.evaluation.features.classifier import (
    NUM_FEATURES,
    Classifier,
    classifier_fingerprint,
    trained_classifier,
)
from dit_lab.evaluation.reference import load_images


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reference")


def of_digits(digits: Digits, folder: Path) -> Classifier:
    return trained_classifier(
        digits, digits_facts(), folder=folder, device=torch.device("cpu"), check_stop=lambda: None
    )


@pytest.fixture(scope="module")
def trained(digits: Digits, folder: Path) -> Classifier:
    before = torch.get_rng_state()
    found = of_digits(digits, folder)
    assert torch.equal(torch.get_rng_state(), before)  # a training's own draws stay what they are
    return found


@pytest.fixture(scope="module")
def held_out(held_out_digits: Digits) -> ImageSet:
    return load_images(held_out_digits, at_most=360, levels=17)


def test_it_knows_images_that_it_has_not_seen(trained: Classifier, held_out: ImageSet) -> None:
    features = trained.features(held_out.pixels)
    assert (features.shape, features.dtype) == ((360, NUM_FEATURES), np.float32)
    probabilities = trained.probabilities(features)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-12)
    # of 360, 0.98 are right: 0.95 is four standard errors below
    assert (probabilities.argmax(axis=1) == held_out.labels.numpy()).mean() > 0.95


def test_an_image_is_seen_alike_in_any_company(trained: Classifier, held_out: ImageSet) -> None:
    few, many = trained.features(held_out.pixels[:7]), trained.features(held_out.pixels)
    np.testing.assert_allclose(few, many[:7], atol=1e-5)  # sums of other batches round otherwise


def test_it_is_trained_once(
    trained: Classifier, digits: Digits, folder: Path, held_out: ImageSet,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    (file,) = folder.iterdir()
    assert file.name == f"classifier-{classifier_fingerprint(digits_facts())}.safetensors"
    monkeypatch.setattr(classifier, "_train", None)
    again = of_digits(digits, folder)
    np.testing.assert_array_equal(
        again.features(held_out.pixels), trained.features(held_out.pixels)
    )


def test_training_again_gives_the_same_network(
    trained: Classifier, digits: Digits, held_out: ImageSet, tmp_path: Path
) -> None:
    """On the same machine, with the same number of threads."""
    again = of_digits(digits, tmp_path)
    np.testing.assert_array_equal(
        again.features(held_out.pixels), trained.features(held_out.pixels)
    )


def test_a_stopped_training_leaves_nothing(digits: Digits, tmp_path: Path) -> None:
    def stop() -> None:
        raise StopRequested(15)

    with pytest.raises(StopRequested):
        trained_classifier(
            digits, digits_facts(), folder=tmp_path, device=torch.device("cpu"), check_stop=stop
        )
    assert list(tmp_path.iterdir()) == []


def test_the_fingerprint_is_of_data_and_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    ours, facts = classifier_fingerprint(digits_facts()), digits_facts()
    assert classifier_fingerprint(replace(facts, fingerprint="other")) != ours
    monkeypatch.setattr(classifier, "LEARNING_RATE", 1e-3)
    assert classifier_fingerprint(facts) != ours
