"""Generated images against real ones: one table that no single kind of failure passes.

Every number that can be is shown beside its floor, the same number for real held-out images. The
metrics are those of `metrics.py`; each is blind to something, and `table.py` says to what.

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
from dit_lab.core.types import ImageSet, drawn_classes
from dit_lab.evaluation.features.extractors import (
    Extractor,
    FeatureCache,
    Features,
    Probabilities,
    finite,
)
from dit_lab.evaluation.metrics.frechet import Moments
from dit_lab.evaluation.metrics.neighbours import Distances, nearest
from dit_lab.evaluation.metrics.two_sample import FOLDS
from dit_lab.evaluation.real_baseline import Measure, RealBaseline, mean_and_deviation
from dit_lab.evaluation.reference import Reference
from dit_lab.evaluation.table import Row, with_caveats

Task = Callable[[], Row]
"""One line of the table, when it is called."""

DRAWS = 3  # disjoint draws of generated images that give a mean and a deviation
MIN_IMAGES = 2 * FOLDS  # of one draw

AS_TRAINED, BALANCED, RANDOM = (
    "as frequent as in the training images", "all classes in turn", "drawn from all classes"
)  # fmt: skip
LABEL_RULES = {"training": AS_TRAINED, "balanced": BALANCED, "random": RANDOM}
"""What `evaluation.labels` may be, and what a card says of it."""


def draw_images(num_images: int, *, train: int, held_out: int) -> int:
    """How many images a draw has, so that DRAWS disjoint ones exist; 0 where they are too few."""
    count = min(held_out, num_images // DRAWS, train // DRAWS)
    return count if count >= MIN_IMAGES else 0


class Extractors(Protocol):
    """What turns images into features, by name; each is made when it is first asked for."""

    def __getitem__(self, name: str) -> Extractor: ...


class FeatureView:
    """Images, and what extractors see in them, each of which looks once."""

    def __init__(self, images: ImageSet, extractors: Extractors, cache: FeatureCache) -> None:
        self.images = images
        self._extractors, self._cache = extractors, cache
        self._features: dict[str, Features] = {}

    def __len__(self) -> int:
        return len(self.images)

    def features(self, extractor: str) -> Features:
        """(N, D)."""
        if extractor not in self._features:
            found = self._cache.features(self._extractors[extractor], self.images.pixels)
            self._features[extractor] = found
        return self._features[extractor]

    def probabilities(self, extractor: str) -> Probabilities | None:
        """(N, K); None where the extractor knows no classes."""
        found = self._extractors[extractor].probabilities(self.features(extractor))
        return None if found is None else finite(found, by=extractor)


class Metric(Protocol):
    """One entry of the list of metrics: some lines of the table."""

    def tasks(self, samples: FeatureView, real: ReferenceSet) -> Sequence[Task]:
        """The lines, in their order. Features are looked at here, the rest is done by the tasks,
        which run in threads."""


class ReferenceSet:
    """Real images with everything that is measured on them once, for any number of sample sets.

    `statistics` gives the Gaussian of the whole training split, which may be more than the training
    images here, by extractor. What is only of real images is kept in `folder`, if one is given.
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
        self._drawn = drawn_classes(reference.num_classes, reference.absent_classes)
        self._extractors = extractors
        self._floors = RealBaseline(folder, seed=seed)
        self._distances: dict[str, Distances] = {}
        cache = FeatureCache(folder)
        self.train = FeatureView(self._shuffled(reference.train, "training"), extractors, cache)
        self.held_out = FeatureView(
            self._shuffled(reference.held_out, "held-out"), extractors, cache
        )

    def _shuffled(self, images: ImageSet, purpose: str) -> ImageSet:
        """Draws are slices, so that they are disjoint; lists are often sorted by class."""
        return images[rng.permutation(self.seed, f"evaluation/{purpose}", 0, len(images))]

    def labels(self, num_images: int, rule: str, seed: int) -> Tensor:
        """Labels (num_images,) for generated images by one of LABEL_RULES."""
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
        """Every training image."""
        return {image.tobytes() for image in self.train.images.pixels.numpy()}

    def held_out_distances(self, extractor: str) -> Distances:
        """Of held-out images to their nearest training images, (M,)."""
        if extractor not in self._distances:
            held_out, train = (of.features(extractor) for of in (self.held_out, self.train))
            self._distances[extractor] = nearest(held_out, train, count=1)[:, 0]
        return self._distances[extractor]

    def measure(self, samples: ImageSet, metrics: Mapping[str, Metric]) -> list[Row]:
        """The table for generated images, of which `draw_images` must find enough."""
        seen = FeatureView(samples, self._extractors, FeatureCache(None))
        tasks = [task for metric in metrics.values() for task in metric.tasks(seen, self)]

        def run(task: Task) -> Row:
            self.check_stop()
            return task()

        # in threads: trees and matrix products leave the interpreter free
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            return with_caveats(list(pool.map(run, tasks)))

    def compare(
        self, metric: str, extractor: str, measure: Measure, samples: FeatureView
    ) -> list[Task]:
        """Against all training images without a floor, then draw by draw with one."""
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
    """DRAWS disjoint slices of `count` images."""
    return [features[start : start + count] for start in range(0, DRAWS * count, count)]


def _row(
    metric: str,
    extractor: str,
    against: str,
    measure: Measure,
    pairs: Sequence[tuple[Features, Features]],
    floor: tuple[float | None, float | None] = (None, None),
) -> Row:
    """Mean and deviation over pairs of (samples, real images)."""
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
