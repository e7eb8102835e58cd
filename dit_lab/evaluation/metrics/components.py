"""Metrics that can be listed in a config. Each misses some failures, so several are listed.

The two-sample test does not detect copies of training images; recall and coverage detect missing
modes; the distance to the training images detects copies. Samples from one Gaussian per class pass
Frechet distances and class accuracy.

Shapes: N images, D features, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from dit_lab.core.errors import RequestError
from dit_lab.evaluation.features.extractors import Features
from dit_lab.evaluation.features.statistics import factored, read_statistics
from dit_lab.evaluation.metrics.frechet import Moments, distance_of_factors, moments
from dit_lab.evaluation.metrics.inception_score import inception_score
from dit_lab.evaluation.metrics.kernel import kernel_distance
from dit_lab.evaluation.metrics.neighbours import coverage, density, nearest, precision, recall
from dit_lab.evaluation.metrics.two_sample import two_sample_accuracy
from dit_lab.evaluation.quality import FeatureView, ReferenceSet, Task
from dit_lab.evaluation.table import Row

NEAR_COPY_SHARE = 0.01  # share of held-out images that count as near copies, by definition
OFFICIAL = {("fd", "inception"): "fid", ("fd", "dinov2"): "fdd", ("kd", "inception"): "kid"}
"""Published names of distances with certain features."""


@dataclass(frozen=True)
class TwoSample:
    """Classifier two-sample test (C2ST) with random forests; 0.5 is chance."""

    extractor: str

    def tasks(self, samples: FeatureView, real: ReferenceSet) -> list[Task]:
        def measure(first: Features, second: Features) -> float:
            real.check_stop()  # called six times per task, seconds each
            return two_sample_accuracy(first, second, seed=real.seed)

        return real.compare("two_sample", self.extractor, measure, samples)


@dataclass(frozen=True)
class PrecisionRecall:
    """Precision, the share of realistic samples, and recall, the share of real images covered."""

    extractor: str

    def tasks(self, samples: FeatureView, real: ReferenceSet) -> list[Task]:
        return [
            *real.compare("recall", self.extractor, recall, samples),
            *real.compare("precision", self.extractor, precision, samples),
        ]


@dataclass(frozen=True)
class DensityCoverage:
    """Density and coverage: precision and recall made robust to outliers."""

    extractor: str

    def tasks(self, samples: FeatureView, real: ReferenceSet) -> list[Task]:
        return [
            *real.compare("coverage", self.extractor, coverage, samples),
            *real.compare("density", self.extractor, density, samples),
        ]


@dataclass(frozen=True)
class KernelDistance:
    """Squared maximum mean discrepancy of features; unbiased, so suited to few images."""

    extractor: str

    def tasks(self, samples: FeatureView, real: ReferenceSet) -> list[Task]:
        def measure(first: Features, second: Features) -> float:
            return kernel_distance(first, second, seed=real.seed)

        return real.compare(_named("kd", self.extractor), self.extractor, measure, samples)


@dataclass(frozen=True)
class Frechet:
    """Frechet distance to the whole training split, or to published statistics.

    Gaussians are fitted to the features; `reference` is the file of published statistics.
    """

    extractor: str
    reference: str | None

    def __post_init__(self) -> None:
        _ = self._published  # an invalid file is refused before images are generated

    @cached_property
    def _published(self) -> Moments | None:
        return None if self.reference is None else factored(read_statistics(Path(self.reference)))

    def tasks(self, samples: FeatureView, real: ReferenceSet) -> list[Task]:
        ours = samples.features(self.extractor)
        held_out = real.held_out.features(self.extractor)
        training = self._published or real.statistics(self.extractor)
        if len(training[0]) != ours.shape[1]:
            raise RequestError(
                f"{self.reference}: statistics of {len(training[0])} features, the extractor "
                f"{self.extractor} gives {ours.shape[1]}"
            )

        def distance(features: Features) -> float:
            return distance_of_factors(moments(features), training)

        def row() -> Row:
            name, count = _named("fd", self.extractor), len(ours)
            enough = len(held_out) >= count  # fewer images increase the distance
            floor = distance(held_out[:count]) if enough else None
            return _whole(name, self.extractor, count, distance(ours), floor=floor)

        return [row]


@dataclass(frozen=True)
class InceptionScore:
    """Confidence and diversity of predicted classes.

    Uses no real images; the baseline is the score of held-out images.
    """

    extractor: str

    def tasks(self, samples: FeatureView, real: ReferenceSet) -> list[Task]:
        ours = samples.probabilities(self.extractor)
        held_out = real.held_out.probabilities(self.extractor)
        assert ours is not None and held_out is not None
        name = "inception_score" if self.extractor == "inception" else "class_score"
        enough = len(held_out) >= len(ours)
        floor = inception_score(held_out[: len(ours)]) if enough else None
        value = inception_score(ours)
        return [lambda: _whole(name, self.extractor, len(ours), value, floor=floor)]


@dataclass(frozen=True)
class ClassAccuracy:
    """Share of samples that the classifier assigns to the requested class."""

    def tasks(self, samples: FeatureView, real: ReferenceSet) -> list[Task]:
        if real.num_classes < 2:  # labels are unused
            return []

        def accuracy(seen: FeatureView) -> float:
            guesses = seen.probabilities("classifier")
            assert guesses is not None
            return float((guesses.argmax(axis=1) == seen.images.labels.numpy()).mean())

        value, floor = accuracy(samples), accuracy(real.held_out)
        return [lambda: _whole("class_accuracy", "classifier", len(samples), value, floor=floor)]


@dataclass(frozen=True)
class Memorisation:
    """Distances of samples to training images, and the share of copies."""

    extractor: str

    def tasks(self, samples: FeatureView, real: ReferenceSet) -> list[Task]:
        features, train = (of.features(self.extractor) for of in (samples, real.train))
        ours = nearest(features, train, count=1)[:, 0]
        distances = real.held_out_distances(self.extractor)

        def distance_ratio() -> Row:
            """Mean distance to the nearest training image, divided by that of held-out images."""
            ratio = ours.mean() / max(distances.mean(), 1e-12)
            return _whole("distance_ratio", self.extractor, len(ours), ratio, floor=1.0)

        def exact_copies() -> Row:
            """Share of samples identical to a training image, byte for byte."""
            value, floor = (_share_of(of, real.known) for of in (samples, real.held_out))
            return _whole("exact_copies", "bytes", len(ours), value, floor=floor)

        def near_copies() -> Row:
            """Share of samples nearer to a training image than 99% of held-out images are."""
            near = np.quantile(distances, NEAR_COPY_SHARE)
            value = (ours < near).mean()
            floor = (distances < near).mean()
            return _whole("near_copies", self.extractor, len(ours), value, floor=floor)

        return [distance_ratio, exact_copies, near_copies]


def _share_of(images: FeatureView, known: set[bytes]) -> float:
    return float(np.mean([image.tobytes() in known for image in images.images.pixels.numpy()]))


def _named(metric: str, extractor: str) -> str:
    return OFFICIAL.get((metric, extractor), metric)


def _whole(
    metric: str, extractor: str, num_images: int, value: float, *, floor: float | None
) -> Row:
    """Return a row for all samples at once, against the training images."""
    return Row(
        metric=metric,
        extractor=extractor,
        against="training",
        num_images=num_images,
        value=float(value),
        floor=None if floor is None else float(floor),
    )
