"""Generated images measured against real ones, with the card of how that was done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch

from dit_lab.evaluation.card import Card, Evaluation
from dit_lab.evaluation.generate import Generator, Passes
from dit_lab.evaluation.likelihood import Likelihood
from dit_lab.evaluation.quality import Yardstick
from dit_lab.evaluation.reference import ImageSet
from dit_lab.types import EvaluationResult, LabelledCall


@dataclass(frozen=True, kw_only=True)
class SampleQuality:
    """Draws images from a model and measures them. Implements `types.Evaluator`.

    `card` says everything that is known before; step and evaluations are filled in.
    """

    every_steps: int
    generator: Generator
    build_yardstick: Callable[[], Yardstick]
    batch_size: int
    folder: Path
    card: Card
    likelihood: Likelihood | None = None

    @cached_property
    def yardstick(self) -> Yardstick:
        """Made when the first images are measured: training need not wait for the real ones."""
        return self.build_yardstick()

    def run(self, model: LabelledCall, step: int) -> EvaluationResult:
        evaluation = self.evaluate(model, step)
        return EvaluationResult(evaluation.metrics, (evaluation.write(self.folder),))

    def evaluate(self, model: LabelledCall, step: int) -> Evaluation:
        """The table for the model's images."""
        samples, per_image = self._samples(model)
        card = replace(self.card, step=step, evaluations_per_image=per_image)
        rows = self.yardstick.measure(samples)
        if self.likelihood is not None:
            rows.append(self.likelihood.row(model))
        return Evaluation(card=card, rows=rows)

    def _samples(self, model: LabelledCall) -> tuple[ImageSet, float]:
        """The images, and how many passed through the model for one of them."""
        passes = Passes()
        groups = self.generator.images(
            model,
            num_images=self.card.num_images,
            seed=self.card.seed,
            labels=self.yardstick.labels(self.card.num_images).tolist(),
            batch_size=self.batch_size,
            on_pass=passes,
        )
        pixels, labels = zip(*groups, strict=True)
        samples = ImageSet(torch.cat(pixels), torch.cat(labels))
        return samples, passes.per_image(self.card.num_images)
