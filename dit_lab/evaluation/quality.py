"""Evaluation of generated images against real ones, with a table of several metrics.

Where possible, each value is shown next to its real-vs-real baseline: the metric's value for
held-out images. The metrics are in `metrics/components.py`; each misses some failures, which
`table.py` lists.

Shapes: N images, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from dit_lab.core import rng
from dit_lab.core.types import ImageSet, default_classes
from dit_lab.evaluation.draws import DRAWS, draw_images
from dit_lab.evaluation.features.extractors import (
    Extractor,
    FeatureCache,
    Features,
    Probabilities,
    finite,
)
from dit_lab.evaluation.metrics.frechet import Moments
from dit_lab.evaluation.metrics.neighbours import Distances, nearest
from dit_lab.evaluation.real_baseline import Measure, RealBaseline, mean_and_deviation
from dit_lab.evaluation.reference import Reference
from dit_lab.evaluation.table import Row, with_caveats

Task = Callable[[], Row]
"""Computes one row of the table."""

AS_TRAINED, BALANCED, RANDOM = (
    "as frequent as in the training images", "all classes in turn", "drawn from all classes"
)  # fmt: skip
LABEL_RULES = {"training": AS_TRAINED, "balanced": BALANCED, "random": RANDOM}
"""Value of `evaluation.labels` -> its description on the card."""


class Extractors(Protocol):
    """Feature extractors by name, each created on first access."""

    def __getitem__(self, name: str) -> Extractor: ...


class FeatureView:
    """Images with their features; each extractor runs once."""

    def __init__(self, images: ImageSet, extractors: Extractors, cache: FeatureCache) -> None:
        self.images = images
        self._extractors, self._cache = extractors, cache
        self._features: dict[str, Features] = {}

    def __len__(self) -> int:
        return len(self.images)

    def features(self, extractor: str) -> Features:
        """Return the features (N, D) of an extractor."""
        if extractor not in self._features:
            found = self._cache.features(self._extractors[extractor], self.images.pixels)
            self._features[extractor] = found
        return self._features[extractor]

    def probabilities(self, extractor: str) -> Probabilities | None:
        """Return class probabilities (N, K), or None if the extractor has no classes."""
        found = self._extractors[extractor].probabilities(self.features(extractor))
        return None if found is None else finite(found, by=extractor)


class Metric(Protocol):
    """An entry of the metric list, which computes one or more rows of the table."""

    def tasks(self, samples: FeatureView, real: ReferenceSet) -> Sequence[Task]:
        """Return one task per row, in order.

        Features are computed here; the tasks compute the rest and run in threads.
        """


class ReferenceSet:
    """Real images, with features and baselines computed once for any number of sample sets.

    Args:
        reference: the real images.
        seed: seed of shuffles, draws and metrics.
        extractors: the feature extractors.
        statistics: returns, by extractor, the Gaussian fitted to the whole training split, which
            may have more images than `reference`.
        folder: cache for features and baselines of real images; None caches nothing on disk.
        check_stop: raises if the process is asked to stop.
    """

    def __init__(
        self,
        reference: Reference,
        *,
        seed: int,
        extractors: Extractors,
        statistics: Callable[[str], Moments],
        folder: Path | None,
        check_stop: Callable[[], None] = lambda: None,
    ) -> None:
        self.seed, self.statistics, self.check_stop = seed, statistics, check_stop
        self.num_classes = reference.num_classes
        self._drawn = default_classes(reference.num_classes, reference.absent_classes)
        self._extractors = extractors
        self._floors = RealBaseline(folder, seed=seed)
        self._distances: dict[str, Distances] = {}
        cache = FeatureCache(folder)
        self.train = FeatureView(self._shuffled(reference.train, "training"), extractors, cache)
        self.held_out = FeatureView(
            self._shuffled(reference.held_out, "held-out"), extractors, cache
        )

    def _shuffled(self, images: ImageSet, purpose: str) -> ImageSet:
        """Shuffle images, so that slices are random draws; datasets are often sorted by class."""
        return images[rng.permutation(self.seed, f"evaluation/{purpose}", 0, len(images))]

    def labels(self, num_images: int, rule: str, seed: int) -> Tensor:
        """Return labels (num_images,) for generated images by one of LABEL_RULES."""
        indices = torch.arange(num_images)
        if rule == AS_TRAINED:
            labels = self.train.images.labels
            return labels[indices % len(labels)]
        classes = torch.tensor(self._drawn)
        if rule == BALANCED:
            return classes[indices % len(classes)]
        return classes[(rng.uniform(seed, "evaluation/labels", indices) * len(classes)).long()]

    @cached_property
    def known(self) -> set[bytes]:
        """The bytes of all training images."""
        return {image.tobytes() for image in self.train.images.pixels.numpy()}

    def held_out_distances(self, extractor: str) -> Distances:
        """Return the distances (M,) of held-out images to their nearest training images."""
        if extractor not in self._distances:
            held_out, train = (of.features(extractor) for of in (self.held_out, self.train))
            self._distances[extractor] = nearest(held_out, train, count=1)[:, 0]
        return self._distances[extractor]

    def measure(self, samples: ImageSet, metrics: Mapping[str, Metric]) -> list[Row]:
        """Return the rows for generated images.

        `draw_images` must be above 0 for their number.
        """
        seen = FeatureView(samples, self._extractors, FeatureCache(None))
        tasks = [task for metric in metrics.values() for task in metric.tasks(seen, self)]

        def run(task: Task) -> Row:
            self.check_stop()
            return task()

        # threads suffice: random forests and matrix products release the GIL
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            return with_caveats(list(pool.map(run, tasks)))

    def compare(
        self, metric: str, extractor: str, measure: Measure, samples: FeatureView
    ) -> list[Task]:
        """Return tasks that compare samples with real images.

        The first compares all samples with training images, without a baseline, if more images are
        available than in a draw. The others compare draw by draw with training and with held-out
        images, with the real-vs-real baseline.
        """
        features = samples.features(extractor)
        train, held_out = self.train.features(extractor), self.held_out.features(extractor)
        whole = min(len(features), len(train))
        draw = draw_images(len(features), train=len(train), held_out=len(held_out))
        assert draw, "too few images; the caller asks draw_images first"
        row = partial(_row, metric, extractor)
        tasks: list[Task] = []
        if whole > draw:
            pair = (features[:whole], train[:whole])
            tasks.append(lambda: row("training", measure, [pair]))
        pairs = {"training": _draws(train, draw), "held-out": [held_out[:draw]] * DRAWS}
        for against, real in (("training", "held-out"), ("held-out", "training")):

            def by_draws(against: str = against, real: str = real) -> Row:
                others = pairs[against]
                of_real = list(zip(pairs[real], others, strict=True))
                drawn = list(zip(_draws(features, draw), others, strict=True))
                floor = self._floors.floor(f"{metric} {extractor}", measure, of_real)
                return row(against, measure, drawn, floor=floor)

            tasks.append(by_draws)
        return tasks


def _draws(features: Features, count: int) -> list[Features]:
    """Return DRAWS disjoint slices of `count` images."""
    return [features[start : start + count] for start in range(0, DRAWS * count, count)]


def _row(
    metric: str,
    extractor: str,
    against: str,
    measure: Measure,
    pairs: Sequence[tuple[Features, Features]],
    floor: tuple[float | None, float | None] = (None, None),
) -> Row:
    """Return a row with mean and deviation over pairs of (samples, real images)."""
    value, deviation = mean_and_deviation([measure(*pair) for pair in pairs])
    return Row(
        metric=metric,
        extractor=extractor,
        against=against,
        num_images=len(pairs[0][0]),
        value=value,
        deviation=deviation if len(pairs) > 1 else None,
        floor=floor[0],
        floor_deviation=floor[1],
    )
