"""Statistics of a whole split equal those of all its features, and are cached by content."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dit_lab.data.digits import Digits
from dit_lab.evaluation.features.extractors import FeatureCache, Features, Pixels, pixel_features
from dit_lab.evaluation.features.reference_statistics import Sums, kept_statistics
from dit_lab.evaluation.features.statistics import Statistics
from dit_lab.evaluation.reference import load_images
from tests.frechet import statistics_of


class Counting:
    """Pixel features, with a count of the images. Implements `Extractor`."""

    name = "counting"

    def __init__(self) -> None:
        self.images, self.fingerprint = 0, "of pixels"

    def features(self, images: torch.Tensor) -> Features:
        self.images += len(images)
        return pixel_features(images)

    def probabilities(self, features: Features) -> None:
        return None


def kept(digits: Digits, folder: Path, extractor: Counting, **described: Any) -> Statistics:
    return kept_statistics(
        digits,
        extractor,
        described={"data": "digits", **described},
        levels=17,
        folder=folder,
        check_stop=lambda: None,
    )


def test_they_are_those_of_all_features_and_made_once(digits: Digits, tmp_path: Path) -> None:
    extractor = Counting()
    found = kept(digits, tmp_path, extractor)
    expected = statistics_of(Pixels().features(load_images(digits, at_most=9999, levels=17).pixels))
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-7)  # kept in float32, as ADM's
    np.testing.assert_allclose(found.covariance, expected.covariance, rtol=1e-9, atol=1e-12)
    again = kept(digits, tmp_path, extractor)
    np.testing.assert_array_equal(again.covariance, found.covariance)
    assert extractor.images == len(digits)


@pytest.mark.parametrize("described", [{"data": "others"}, {"size": [16, 16, 1]}])
def test_statistics_of_something_else_are_others(
    digits: Digits, tmp_path: Path, described: dict[str, Any]
) -> None:
    extractor = Counting()
    kept(digits, tmp_path, extractor)
    kept(digits, tmp_path, extractor, **described)
    assert extractor.images == 2 * len(digits)
    said = [json.loads(file.read_text()) for file in tmp_path.glob("*.json")]
    assert len(said) == 2
    assert all(of["extractor_fingerprint"] == "of pixels" for of in said)


def test_features_far_from_zero_lose_no_digits() -> None:
    """Summing squares of a million would cancel a variance of one."""
    features = (1e6 + np.random.default_rng(0).normal(size=(400, 3))).astype(np.float64)
    sums = Sums()
    for part in np.array_split(features, 5):
        sums.add(part)  # type: ignore[arg-type]
    np.testing.assert_allclose(sums.statistics().covariance, np.cov(features.T), rtol=1e-6)


def test_features_of_real_images_are_kept_by_content(digits: Digits, tmp_path: Path) -> None:
    extractor, cache = Counting(), FeatureCache(tmp_path)
    images = load_images(digits, at_most=50, levels=17).pixels
    for _ in range(2):
        found = cache.features(extractor, images)
        np.testing.assert_array_equal(found, Pixels().features(images))
    assert extractor.images == 50
    cache.features(extractor, images.flip(0))
    assert extractor.images == 100
    extractor.fingerprint = "another network"
    cache.features(extractor, images)
    assert extractor.images == 150
    FeatureCache(None).features(extractor, images)
    assert extractor.images == 200
    assert len(list(tmp_path.iterdir())) == 3
