"""Probes of the evaluators of a training, with fewer images, at the last probed step.

validation: the terms of the validation loss, of the EMA that is evaluated
table: metrics of samples of that EMA against real images
fixed: the terms of the validation loss with fixed nonzero weights, for which labels matter
sampled: the weights file of each value of `sample.weights`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dit_lab.actions.evaluate import training_evaluators
from dit_lab.build.parts import Parts
from dit_lab.build.trained import file_of
from dit_lab.config.objects import to_component
from dit_lab.core.types import Evaluator, Hook
from dit_lab.evaluation.options import METRICS
from dit_lab.evaluation.table import is_row_key
from dit_lab.evaluation.validation import SampleGrid, ValidationLoss
from dit_lab.reproduce.drawing import fixed_call
from dit_lab.runs.folder import RunFolder
from dit_lab.sampling.generate import CHUNK_IMAGES
from dit_lab.training.distributed import DistributedContext

LOSS_IMAGES, REFERENCE_IMAGES = 128, 1024
KINDS = {"memorisation": "Memorisation", "kernel_distance": "KernelDistance"}
"""Cheap metrics by name. Their fractions of images are left out, since with few images rounding can
change a fraction noticeably."""

UNTRAINED = {"train_hash": "", "code_hash": "", "forced_over": []}


def small_evaluators(
    parts: Parts, folder: Path, context: DistributedContext, *, steps: int
) -> list[Evaluator]:
    """Return small evaluators that run after `steps` steps and write only to `folder`."""
    config = parts.config
    steps = min(steps, config.training.total_steps)
    metric = {
        name: to_component(
            f"metric.{name}", {"_target_": f"{METRICS}.{kind}", "extractor": "pixels"}
        )
        for name, kind in KINDS.items()
    }
    small = replace(
        config,
        metric=metric,
        paths=replace(config.paths, root=str(folder)),
        training=replace(config.training, validate_every_steps=steps, evaluate_every_steps=steps),
        evaluation=replace(
            config.evaluation,
            loss_images=LOSS_IMAGES,
            num_images=CHUNK_IMAGES,
            num_seeds=1,
            reference_images=REFERENCE_IMAGES,
            likelihood_images=0,
        ),
    )
    found = training_evaluators(
        replace(parts, config=small),
        RunFolder(folder),
        identity=UNTRAINED,
        process_group=context.process_group,
        check_stop=context.check_stop,
        on_message=lambda text: None,
    )
    return [one for one in found if not isinstance(one, SampleGrid)]


class Measured(Hook):
    """Collects the metrics of the evaluators."""

    def __init__(self) -> None:
        self._losses: list[float] = []
        self._rows: list[float] = []

    def on_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            if is_row_key(name):
                if "copies" not in name:
                    self._rows.append(value)
            elif name.startswith("eval/"):
                self._losses.append(value)

    def probes(self) -> dict[str, Any]:
        table = {"table": self._rows} if self._rows else {}  # none if there are too few real images
        return {"validation": self._losses, **table}


@torch.no_grad()
def of_fixed_weights(parts: Parts, evaluators: Sequence[Evaluator]) -> dict[str, Any]:
    (loss,) = (one for one in evaluators if isinstance(one, ValidationLoss))
    found = loss.run(fixed_call(parts), 0).metrics
    names = ("ema", "raw", *(f"ema:{decay}" for decay in parts.config.ema.decays))
    meant = ", ".join(f"{name}: {file_of(name, parts.config)}" for name in names)
    return {"fixed": list(found.values()), "sampled": meant}
