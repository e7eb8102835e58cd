"""Generated images against real ones: one table that no single kind of failure passes.

Every number that can be is shown beside its floor, the same number for real held-out images. The
metrics that lead are three because each is blind to something: trees tell samples from real images
(two-sample) but are content with copies of the training images; recall sees what is missing; the
distance to the training images sees copies. Pixel Frechet distance and class accuracy come last: a
Gaussian per class passes both.

Shapes: N images, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor

from dit_lab import rng
from dit_lab.evaluation.features import Features, pixel_features
from dit_lab.evaluation.frechet import frechet_distance
from dit_lab.evaluation.neighbours import nearest, precision, recall
from dit_lab.evaluation.reference import ImageSet, Reference
from dit_lab.evaluation.table import Row, with_caveats
from dit_lab.evaluation.two_sample import FOLDS, two_sample_accuracy

Measure = Callable[[Features, Features], float]
"""(samples (N, D), real images (N, D)) -> the metric."""

DRAWS = 3  # disjoint draws of generated images that give a mean and a deviation
MIN_IMAGES = 2 * FOLDS  # of one draw
NEAR_COPY_SHARE = 0.01  # of held-out images that pass for near copies, by definition
CLASSIFIER_IMAGES, CLASSIFIER_CLASSES = 5000, 50  # what a support vector machine takes in seconds


def draw_images(num_images: int, *, train: int, held_out: int) -> int:
    """How many images a draw has, so that DRAWS disjoint ones exist; 0 where they are too few."""
    count = min(held_out, num_images // DRAWS, train // DRAWS)
    return count if count >= MIN_IMAGES else 0


class Yardstick:
    """Real images with everything that is measured on them once, for any number of sample sets."""

    def __init__(
        self, reference: Reference, *, seed: int, check_stop: Callable[[], None] = lambda: None
    ) -> None:
        self._reference, self._seed, self._check_stop = reference, seed, check_stop
        self._floors: dict[tuple[str, str, int], tuple[float, float]] = {}
        self._train = pixel_features(self._shuffled(reference.train, "training").pixels)
        self._held_out = pixel_features(self._shuffled(reference.held_out, "held-out").pixels)

    def _shuffled(self, images: ImageSet, purpose: str) -> ImageSet:
        """Draws are slices, so that they are disjoint; lists are often sorted by class."""
        return images[rng.permutation(self._seed, f"evaluation/{purpose}", 0, len(images))]

    def labels(self, num_images: int) -> Tensor:
        """Labels (num_images,) for generated images, as frequent as in the training images."""
        labels = self._shuffled(self._reference.train, "training").labels
        return labels[torch.arange(num_images) % len(labels)]

    def measure(self, samples: ImageSet) -> list[Row]:
        """The table for generated images, of which `draw_images` must find enough."""
        features = pixel_features(samples.pixels)
        whole = min(len(features), len(self._train))
        draw = draw_images(len(features), train=len(self._train), held_out=len(self._held_out))
        assert draw, "too few images; the caller asks draw_images first"
        tasks: list[Callable[[], Row]] = []

        def compare(metric: str, measure: Measure) -> None:
            """Against all training images without a floor, then draw by draw with one."""
            if whole > draw:
                pair = (features[:whole], self._train[:whole])
                tasks.append(lambda: _row(metric, "training", measure, [pair]))
            for against in ("training", "held-out"):
                tasks.append(partial(self._by_draws, metric, against, measure, features, draw))

        compare("two_sample", self._two_sample)
        compare("recall", recall)
        tasks.append(lambda: self._distance_ratio(features))
        tasks.append(lambda: self._exact_copies(samples))
        tasks.append(lambda: self._near_copies(features))
        compare("precision", precision)
        if self._classifier is not None:
            tasks.append(lambda: self._class_accuracy(features, samples.labels))
        compare("pixel_frechet", frechet_distance)
        return with_caveats(self._run(tasks))

    def _by_draws(
        self, metric: str, against: str, measure: Measure, features: Features, draw: int
    ) -> Row:
        """Disjoint draws of the samples, and real images in their place as the floor."""
        train, held_out = _draws(self._train, draw), [self._held_out[:draw]] * DRAWS
        others, real = (train, held_out) if against == "training" else (held_out, train)
        pairs = list(zip(_draws(features, draw), others, strict=True))
        key = (metric, against, draw)
        if key not in self._floors:
            self._floors[key] = _mean([measure(*pair) for pair in zip(real, others, strict=True)])
        return _row(metric, against, measure, pairs, floor=self._floors[key])

    def _run(self, tasks: Iterable[Callable[[], Row]]) -> list[Row]:
        """In threads (trees and matrix products leave the interpreter free), results in order."""

        def run(task: Callable[[], Row]) -> Row:
            self._check_stop()
            return task()

        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            return list(pool.map(run, tasks))

    def _two_sample(self, first: Features, second: Features) -> float:
        self._check_stop()  # a task has six of these, each takes seconds
        return two_sample_accuracy(first, second, seed=self._seed)

    # ---- copies of training images --------------------------------------------------------------

    @cached_property
    def _held_out_distances(self) -> np.ndarray:
        return nearest(self._held_out, self._train, count=1)[:, 0]

    def _distance_ratio(self, features: Features) -> Row:
        """Mean distance to the nearest training image, over that of held-out images."""
        mean = nearest(features, self._train, count=1).mean()
        ratio = mean / max(self._held_out_distances.mean(), 1e-12)
        return _per_image("distance_ratio", len(features), ratio, floor=1.0)

    def _near_copies(self, features: Features) -> Row:
        """Share that lies nearer to a training image than all but 1% of held-out images do."""
        near = np.quantile(self._held_out_distances, NEAR_COPY_SHARE)
        ours = nearest(features, self._train, count=1)[:, 0] < near
        floor = (self._held_out_distances < near).mean()
        return _per_image("near_copies", len(features), ours.mean(), floor=floor)

    def _exact_copies(self, samples: ImageSet) -> Row:
        """Share that is a training image, byte for byte."""
        known = {image.tobytes() for image in self._reference.train.pixels.numpy()}

        def share(images: ImageSet) -> float:
            return float(np.mean([image.tobytes() in known for image in images.pixels.numpy()]))

        floor = share(self._reference.held_out)
        return _per_image("exact_copies", len(samples), share(samples), floor=floor)

    # ---- classes --------------------------------------------------------------------------------

    @cached_property
    def _classifier(self) -> Callable[[Features], np.ndarray] | None:
        """A support vector machine fitted to training images; None where labels mean nothing."""
        from sklearn.svm import SVC

        labels = self._shuffled(self._reference.train, "training").labels[:CLASSIFIER_IMAGES]
        if self._reference.num_classes > CLASSIFIER_CLASSES or len(labels.unique()) < 2:
            return None
        return SVC(C=10).fit(self._train[: len(labels)], labels.numpy()).predict

    def _class_accuracy(self, features: Features, labels: Tensor) -> Row:
        """Share that the classifier takes for the class that was asked for."""
        assert self._classifier is not None
        held_out = self._shuffled(self._reference.held_out, "held-out").labels.numpy()
        floor = (self._classifier(self._held_out) == held_out).mean()
        value = (self._classifier(features) == labels.numpy()).mean()
        return _per_image("class_accuracy", len(features), value, floor=floor)


def _draws(features: Features, count: int) -> list[Features]:
    """DRAWS disjoint slices of `count` images."""
    return [features[start : start + count] for start in range(0, DRAWS * count, count)]


def _row(
    metric: str,
    against: str,
    measure: Measure,
    pairs: Sequence[tuple[Features, Features]],
    floor: tuple[float | None, float | None] = (None, None),
) -> Row:
    """Mean and deviation over pairs of (samples, real images)."""
    value, deviation = _mean([measure(*pair) for pair in pairs])
    return Row(
        metric=metric,
        against=against,
        num_images=len(pairs[0][0]),
        value=value,
        deviation=deviation if len(pairs) > 1 else None,
        floor=floor[0],
        floor_deviation=floor[1],
    )


def _mean(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation, 0 for a single value."""
    deviation = np.std(values, ddof=1) if len(values) > 1 else 0.0
    return float(np.mean(values)), float(deviation)


def _per_image(metric: str, num_images: int, value: float, *, floor: float) -> Row:
    """A mean over images, which does not depend on their number."""
    return Row(
        metric=metric,
        against="training",
        num_images=num_images,
        value=float(value),
        floor=float(floor),
    )
