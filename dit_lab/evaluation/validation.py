"""What is looked at during training: the loss on held-out images, and a grid of samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from dit_lab.evaluation.generate import Generator
from dit_lab.evaluation.images import grid_columns, write_grid
from dit_lab.types import Batch, EvaluationResult, LabelledCall, Objective


@dataclass(frozen=True, kw_only=True)
class ValidationLoss:
    """Mean of the objective's terms over held-out images, at noise and times fixed by the seed.

    The same images, noise and times every time, so that two values differ by the weights alone.
    """

    every_steps: int
    batches: Callable[[], Iterable[Batch]]
    objective: Objective
    check_stop: Callable[[], None]

    def run(self, model: LabelledCall, step: int) -> EvaluationResult:
        sums: dict[str, torch.Tensor] = {}
        count = 0
        for batch in self.batches():
            self.check_stop()
            terms = self.objective.loss(_with_labels(model, batch), batch)
            for name, term in terms.items():
                sums[name] = sums.get(name, 0) + term.double().sum()
            count += len(batch.labels)
        return EvaluationResult({f"eval/{name}": (s / count).item() for name, s in sums.items()})


def _with_labels(model: LabelledCall, batch: Batch) -> Callable[..., torch.Tensor]:
    return lambda x, time: model(x, time, batch.labels)


@dataclass(frozen=True, kw_only=True)
class SampleGrid:
    """A PNG of generated images, the same noise and labels every time."""

    every_steps: int
    generator: Generator
    folder: Path
    num_images: int
    seed: int
    labels: Sequence[int] | None

    def run(self, model: LabelledCall, step: int) -> EvaluationResult:
        images, labels = zip(
            *self.generator.images(
                model, num_images=self.num_images, seed=self.seed, labels=self.labels
            ),
            strict=True,
        )
        columns = grid_columns(self.num_images, len(torch.cat(labels).unique()))
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"step-{step:08d}.png"
        write_grid(path, torch.cat(images), columns=columns)
        return EvaluationResult(artifacts=(path,))
