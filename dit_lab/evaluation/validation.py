"""Evaluators during training: the loss on held-out images, and a grid of samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dit_lab.core.process_group import SINGLE_PROCESS, map_over_ranks
from dit_lab.core.types import (
    Batch,
    EvaluationResult,
    LabelledCall,
    ModelCall,
    Objective,
    ProcessGroup,
    Progress,
)
from dit_lab.sampling.generate import Generator
from dit_lab.sampling.images import captions_of, grid_columns, write_grid


@dataclass(frozen=True, kw_only=True)
class ValidationLoss:
    """Mean loss terms over held-out images.

    Images, noise and times are the same every time, so values differ only through the weights.
    """

    every_steps: int
    batches: Sequence[Callable[[], Batch]]
    objective: Objective
    null_label: int | None = None
    total_steps: int = 1
    process_group: ProcessGroup = SINGLE_PROCESS
    check_stop: Callable[[], None]

    def run(self, model: LabelledCall, step: int) -> EvaluationResult:
        def of(make: Callable[[], Batch]) -> tuple[dict[str, float], int]:
            self.check_stop()
            batch = make()
            progress = Progress(step, self.total_steps)
            predict = _with_labels(model, batch, null_label=self.null_label, progress=progress)
            terms = self.objective.loss(predict, batch)
            found = {name: term.cpu().double().sum().item() for name, term in terms.items()}
            return found, len(batch.labels)

        sums: dict[str, float] = {}
        count = 0
        for terms, images in map_over_ranks(self.process_group, self.batches, of):
            for name, term in terms.items():
                sums[name] = sums.get(name, 0.0) + term
            count += images
        return EvaluationResult({f"eval/{name}": total / count for name, total in sums.items()})


def _with_labels(model: LabelledCall, batch: Batch, **known: Any) -> ModelCall:
    """Return the averaged model as a loss calls it, with all labels of the batch."""
    return ModelCall(model=model, averaged=model, labels=batch.labels, **known)


@dataclass(frozen=True, kw_only=True)
class SampleGrid:
    """A PNG of generated images, with the same noise and labels every time."""

    every_steps: int
    generator: Generator
    folder: Path
    num_images: int
    seed: int
    labels: Sequence[int] | None
    class_names: Sequence[str] = ()  # for class-conditional models

    def run(self, model: LabelledCall, step: int) -> EvaluationResult:
        images, labels = zip(
            *self.generator.images(
                model, num_images=self.num_images, seed=self.seed, labels=self.labels
            ),
            strict=True,
        )
        of_all = torch.cat(labels)
        columns = grid_columns(self.num_images, len(of_all.unique()))
        captions = captions_of(of_all, self.class_names)
        path = self.folder / f"step-{step:08d}.png"

        def write() -> None:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_grid(path, torch.cat(images), columns=columns, captions=captions)

        self.generator.process_group.first(write)
        return EvaluationResult(artifacts=(path,))
