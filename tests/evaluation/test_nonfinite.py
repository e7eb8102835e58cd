"""Non-finite features are refused by every metric and wherever features are made or read.

Comparisons with NaN distances are always false, so metrics would look normal.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from dit_lab.core.errors import RequestError
from dit_lab.core.types import ImageSet
from dit_lab.evaluation.features.extractors import FeatureCache, Features, Probabilities
from dit_lab.evaluation.features.reference_statistics import kept_statistics
from dit_lab.evaluation.features.statistics import read_statistics
from dit_lab.evaluation.metrics.components import (
    ClassAccuracy,
    DensityCoverage,
    Frechet,
    InceptionScore,
    KernelDistance,
    Memorisation,
    PrecisionRecall,
    TwoSample,
)
from dit_lab.evaluation.metrics.frechet import moments
from dit_lab.evaluation.metrics.inception_score import inception_score
from dit_lab.evaluation.metrics.kernel import kernel_distance
from dit_lab.evaluation.metrics.neighbours import coverage, density, nearest, precision, recall
from dit_lab.evaluation.metrics.two_sample import two_sample_accuracy
from dit_lab.evaluation.quality import Metric, ReferenceSet
from dit_lab.evaluation.reference import Reference

SAID = "its output is not finite in"
COUNT = 40

MEASURES: dict[str, Callable[[Features, Features], object]] = {
    "precision": precision,
    "recall": recall,
    "density": density,
    "coverage": coverage,
    "nearest": lambda first, second: nearest(first, second, count=1),
    "kernel distance": lambda first, second: kernel_distance(first, second, seed=0),
    "Frechet distance": lambda first, second: (moments(first), moments(second)),
    "two-sample test": lambda first, second: two_sample_accuracy(first, second, seed=0),
    "inception score": lambda first, second: (inception_score(first), inception_score(second)),
}


def normal(seed: int, count: int = COUNT) -> Features:
    return np.random.default_rng(seed).normal(size=(count, 4)).astype(np.float32)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("measure", MEASURES)
def test_every_measure_refuses_them(measure: str, side: int, value: float) -> None:
    """A single non-finite value of a single image, among samples or real images."""
    sets = (normal(0), normal(1))
    sets[side][COUNT - 1, 2] = value
    with pytest.raises(RequestError, match=SAID):
        MEASURES[measure](*sets)


# ---- networks -----------------------------------------------------------------------------------


class Broken:
    """An extractor with NaN for bright pixels, or NaN probabilities of the first image.

    Implements `Extractor`.
    """

    fingerprint = "broken"

    def __init__(self, name: str, *, features: bool = True, probabilities: bool = False) -> None:
        self.name, self._features, self._probabilities = name, features, probabilities

    def features(self, images: Tensor) -> Features:
        found = images.float().flatten(1).numpy() / 255
        return np.where(found > 0.7, np.nan, found) if self._features else found

    def probabilities(self, features: Features) -> Probabilities:
        whole = np.abs(features.astype(np.float64)) + 0.1
        if self._probabilities:
            whole[0] = np.nan
        return whole / whole.sum(axis=1, keepdims=True)


METRICS: dict[str, Metric] = {
    "two_sample": TwoSample("inception"),
    "precision_recall": PrecisionRecall("inception"),
    "density_coverage": DensityCoverage("inception"),
    "kernel_distance": KernelDistance("inception"),
    "frechet": Frechet("inception", None),
    "memorisation": Memorisation("inception"),
    "inception_score": InceptionScore("inception"),
    "class_accuracy": ClassAccuracy(),
}


def images(seed: int, *, brightest: int) -> ImageSet:
    drawn = torch.randint(0, brightest, (COUNT, 2, 2, 1), generator=torch.manual_seed(seed))
    return ImageSet(drawn.byte(), torch.arange(COUNT) % 4)


def reference_set(
    network: Broken, folder: Path | None = None, brightest: int = 100
) -> ReferenceSet:
    train, held_out = images(0, brightest=brightest), images(1, brightest=brightest)
    return ReferenceSet(
        Reference(train, held_out, 4),
        seed=0,
        extractors={"inception": network, "classifier": network},
        statistics=lambda extractor: moments(normal(0)),
        folder=folder,
    )


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_refuses_them(metric: str) -> None:
    """Of samples whose images the network sees nothing in, and by name."""
    network = Broken("inception")
    samples = images(2, brightest=256)
    with pytest.raises(RequestError, match=f"^extractor inception: {SAID} [0-9]+ of {COUNT} "):
        reference_set(network).measure(samples, {metric: METRICS[metric]})


@pytest.mark.parametrize("metric", ["inception_score", "class_accuracy"])
def test_probabilities_are_looked_at_too(metric: str) -> None:
    network = Broken("inception", features=False, probabilities=True)
    with pytest.raises(RequestError, match=SAID):
        reference_set(network).measure(images(2, brightest=256), {metric: METRICS[metric]})


def test_they_are_neither_kept_nor_believed(tmp_path: Path) -> None:
    """Features cached by an earlier version are checked too."""
    network, real = Broken("inception"), images(0, brightest=256)
    with pytest.raises(RequestError, match=SAID):
        FeatureCache(tmp_path).features(network, real.pixels)
    assert not list(tmp_path.iterdir())
    healthy = Broken("inception", features=False)
    FeatureCache(tmp_path).features(healthy, real.pixels)
    (file,) = tmp_path.iterdir()
    np.save(file, np.full((COUNT, 4), np.inf, np.float32))
    with pytest.raises(RequestError, match=SAID):
        FeatureCache(tmp_path).features(healthy, real.pixels)


def test_statistics_of_them_are_refused(tmp_path: Path) -> None:
    """Before they are written, and in files of others."""

    class Bright:
        def __len__(self) -> int:
            return COUNT

        def fetch(self, indices: Tensor, counters: Tensor | None) -> tuple[Tensor, Tensor]:
            return torch.ones(len(indices), 1, 2, 2), torch.zeros(len(indices), dtype=torch.int64)

    with pytest.raises(RequestError, match=SAID):
        kept_statistics(
            Bright(), Broken("inception"), described={}, levels=256, folder=tmp_path,
            check_stop=lambda: None,
        )  # fmt: skip
    assert not list(tmp_path.iterdir())
    np.savez(tmp_path / "theirs.npz", mu=np.zeros(4), sigma=np.full((4, 4), np.nan))
    with pytest.raises(RequestError, match="statistics: hold numbers that are not finite"):
        read_statistics(tmp_path / "theirs.npz")
