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
        written = self.generator.team.first(lambda: evaluation.write(self.folder))
        return EvaluationResult(evaluation.metrics, (written,))

    def evaluate(self, model: LabelledCall, step: int) -> Evaluation:
        """The table for the model's images, which a team draws and its first process measures."""
        samples, per_image = self._samples(model)
        card = replace(self.card, step=step, evaluations_per_image=per_image)
        rows = self.generator.team.first(lambda: self.yardstick.measure(samples))
        if self.likelihood is not None:
            rows.append(self.likelihood.row(model))
        return Evaluation(card=card, rows=rows)

    def _samples(self, model: LabelledCall) -> tuple[ImageSet, float]:
        """The images, and how many passed through the model for one of them."""
        passes, count = Passes(), self.card.num_images
        labels = self.generator.team.first(lambda: self.yardstick.labels(count).tolist())
        groups = self.generator.images(
            model,
            num_images=count,
            seed=self.card.seed,
            labels=labels,
            batch_size=self.batch_size,
            on_pass=passes,
        )
        pixels, given = zip(*groups, strict=True)
        return ImageSet(torch.cat(pixels), torch.cat(given)), passes.per_image(count)
