"""Evaluator that generates images, computes the metrics and stores them with their card."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path

from dit_lab.core.types import EvaluationResult, ImageSet, LabelledCall, is_due
from dit_lab.evaluation.card import Card, Evaluation
from dit_lab.evaluation.metrics.likelihood import Likelihood
from dit_lab.evaluation.quality import Metric, ReferenceSet
from dit_lab.evaluation.table import Row, over_seeds
from dit_lab.runs.folder import digest
from dit_lab.sampling.drawn import DrawnImages
from dit_lab.sampling.generate import CHUNK_IMAGES, EvaluationCount, Generator

GROUP_IMAGES = 256  # images saved together; an interruption loses at most these


@dataclass(frozen=True, kw_only=True)
class SampleQuality:
    """Generates images from a model and evaluates them. Implements `types.Evaluator`.

    Each metric has its own interval, `metrics_every_steps`; metrics due at the same step share the
    images. `card` holds what is known in advance; step, NFE and the metrics of the step are filled
    in. `on_drawn(done, all)` reports the number of generated images.
    """

    generator: Generator
    build_reference_set: Callable[[], ReferenceSet]
    metrics: Mapping[str, Metric]
    metrics_every_steps: Mapping[str, int]  # 0: at the end only
    total_steps: int
    folder: Path
    card: Card
    likelihood: Likelihood | None = None
    on_drawn: Callable[[int, int], None] = lambda done, count: None

    @property
    def every_steps(self) -> int:
        """Interval that includes every step at which a metric may be due."""
        return math.gcd(*self.metrics_every_steps.values())

    @cached_property
    def reference_set(self) -> ReferenceSet:
        """Real images, loaded on first use so that training does not wait for them."""
        return self.build_reference_set()

    def run(self, model: LabelledCall, step: int) -> EvaluationResult:
        due = [
            name
            for name, every_steps in self.metrics_every_steps.items()
            if is_due(step, every_steps=every_steps, total_steps=self.total_steps)
        ]
        if not due:
            return EvaluationResult()
        some = replace(
            self,
            metrics={name: self.metrics[name] for name in due},
            card=replace(self.card, metrics={name: self.card.metrics[name] for name in due}),
            build_reference_set=lambda: self.reference_set,
        )
        evaluation, written = some.evaluate(model, step)
        return EvaluationResult(evaluation.metrics, (written,))

    def evaluate(self, model: LabelledCall, step: int) -> tuple[Evaluation, Path]:
        """Evaluate the model and return the evaluation and its file.

        All processes generate images; the main process computes the metrics.
        """
        process_group, card = self.generator.process_group, replace(self.card, step=step)
        seeds = range(card.seed, card.seed + card.num_seeds)
        drawn = [DrawnImages(self.folder / f".drawn-{_samples_hash(card, s)}") for s in seeds]
        tables: list[list[Row]] = []
        for seed, images in zip(seeds, drawn, strict=True):
            self._draw(model, images, seed)
            table, per_image = process_group.first(partial(self._measured, images))
            tables.append(table)
        rows = over_seeds(tables)
        if self.likelihood is not None:
            rows.append(self.likelihood.row(model))
        evaluation = Evaluation(card=replace(card, evaluations_per_image=per_image), rows=rows)

        def keep() -> Path:
            written = evaluation.write(self.folder)
            for images in drawn:
                images.remove()
            return written

        return evaluation, process_group.first(keep)

    def _measured(self, drawn: DrawnImages) -> tuple[list[Row], float]:
        """Return the rows for the images, and their NFE."""
        images, passed = drawn.all()
        table = self.reference_set.measure(images, self.metrics)
        return table, EvaluationCount(passed).per_image(len(images))

    def _draw(self, model: LabelledCall, drawn: DrawnImages, seed: int) -> None:
        """Generate the images that are not stored yet."""
        process_group, count = self.generator.process_group, self.card.num_images
        first = process_group.first(drawn.count)
        labels = process_group.first(
            lambda: self.reference_set.labels(count, self.card.labels, seed).tolist()
        )
        passes, counted = EvaluationCount(), 0
        groups = self.generator.images(
            model,
            num_images=count,
            seed=seed,
            labels=labels,
            batch_size=max(GROUP_IMAGES, process_group.size * CHUNK_IMAGES),
            first=first,
            on_pass=passes,
        )
        for group in groups:
            images, new = ImageSet(*group), passes.images - counted
            process_group.first(partial(drawn.add, images, first=first, passes=new))
            first, counted = first + len(images), passes.images
            self.on_drawn(first, count)


def _samples_hash(card: Card, seed: int) -> str:
    """Return a hash of everything that determines the images of a seed."""
    of_metrics = ("metrics", "metrics_seed", "features", "likelihood", "num_seeds", "seed")
    parts = {key: value for key, value in asdict(card).items() if key not in of_metrics}
    return digest({**parts, "seed": seed})
