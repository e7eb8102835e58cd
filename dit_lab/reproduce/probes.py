"""Probes: deterministic values of the first training steps, the evaluators and the samplers.

They take seconds. A loss alone would not do: label dropout changes it by only 1e-5 in the first
steps, and the EMA decay does not change it at all. So everything that affects results has a probe
of its own, with a tolerance for rounding.

Shapes: N images, C channels, H x W cells.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from dit_lab.build.parts import Parts, build_parts
from dit_lab.build.training import averages, train_steps, training_objects
from dit_lab.config.schema import RunConfig
from dit_lab.core.devices import widest_float
from dit_lab.core.types import Batch, Evaluator, Hook, Shapes
from dit_lab.reproduce.drawing import by_other_samplers, by_the_sampler
from dit_lab.reproduce.measuring import Measured, of_fixed_weights, small_evaluators
from dit_lab.runs.provenance import device_name, versions
from dit_lab.training.batches import TrainingBatches
from dit_lab.training.distributed import DistributedContext
from dit_lab.training.parallel import full_tensor_of
from dit_lab.training.stop import StopSignal

STEPS = 50
AVERAGED_STEPS = (1, 10, 100, 1000, 2000)
LAST_UPDATE = 1e6  # the number of updates after which the warm-up of every EMA decay is over


def probe(config: RunConfig, shapes: Shapes, *, training: bool = True) -> dict[str, Any]:
    """Return every probe by name: a number, a text, or a list of numbers.

    Without `training`, only the probes of the configured sampler. No files remain on disk.

        losses: the training loss of steps 1 to 50
        errors: its squared error, if an adaptive weight keeps the loss near 1
        noise: a projection of the noise of each of these steps
        weights, averages: norms of the parameters and of each EMA after these steps
        order: a hash of the image indices, labels and label drops of these steps
        dropped: the share of dropped labels
        lag: how far each EMA is behind a weight that grows by one with every update
        horizon: the length of each EMA, in updates, after its warm-up

    The other probes are described in `measuring.py` and `drawing.py`.
    """
    with StopSignal() as stop:
        context = DistributedContext(
            stop,
            mixed_precision=config.precision.mixed_precision,
            tf32=config.precision.tf32,
            static_graph=config.training.accumulation == 1,
            cpu_offload=config.distributed.cpu_offload,
        )
        parts = build_parts(config, shapes, context.accelerator.device)
        if not training:
            return by_the_sampler(parts, stop)
        with TemporaryDirectory() as place:
            evaluators = small_evaluators(parts, Path(place), context, steps=STEPS)
            return {
                **_training(parts, context, evaluators),
                **_averages(config),
                **by_the_sampler(parts, stop),
                **of_fixed_weights(parts, evaluators),
                **by_other_samplers(parts, stop),
            }


# ---- the first steps of a training ---------------------------------------------------------------


def _training(
    parts: Parts, context: DistributedContext, evaluators: Sequence[Evaluator]
) -> dict[str, Any]:
    objects = training_objects(parts, context, begin=False, on_message=lambda text: None)
    seen = _Seen(objects["batches"])
    losses, measured = _Losses(), Measured()

    train_steps(
        parts.config,
        {**objects, "batches": seen},
        context,
        steps=STEPS,
        log_every_steps=1,
        hooks=[losses, measured],
        evaluators=evaluators,
    )
    weights = dict(objects["model"].module.named_parameters())
    return {
        "losses": losses.of("train/loss"),
        **({"errors": errors} if (errors := losses.of("train/error")) else {}),
        "weights": _norm(weights),
        "averages": [_norm(average.shadow) for average in objects["emas"]],
        **seen.probes(),
        **measured.probes(),
    }


class _Losses(Hook):
    """Collects the terms of the training loss of every step."""

    def __init__(self) -> None:
        self._rows: list[Mapping[str, float]] = []

    def on_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        if "train/loss" in metrics:
            self._rows.append(metrics)

    def of(self, name: str) -> list[float]:
        """Return a term at every step; empty if the objective does not have it."""
        return [row[name] for row in self._rows if name in row]


class _Seen:
    """Wraps the batches of a training and records those of the first steps.

    Indices and labels are hashed. Noise is rounded differently by other processors, so it is not
    hashed: the noise of each step is projected onto a cosine over all its values.
    """

    def __init__(self, batches: TrainingBatches) -> None:
        self._batches = batches
        self.dataset, self.order = batches.dataset, batches.order
        self.global_batch_size = batches.global_batch_size
        self._whole = hashlib.sha256()
        self._noise: list[float] = []
        self._dropped: list[Tensor] = []

    def from_step(self, first_step: int) -> Generator[Sequence[Batch], None, None]:
        steps = self._batches.from_step(first_step)
        try:
            for micro_batches in steps:
                if len(self._noise) < STEPS:
                    self._note(micro_batches)
                yield micro_batches
        finally:
            steps.close()

    def _note(self, micro_batches: Sequence[Batch]) -> None:
        for batch in micro_batches:
            indices = self.order.indices(batch.sample_counter.cpu())
            for field in (indices, batch.labels, batch.drop_label):
                self._whole.update(field.long().cpu().numpy().tobytes())
            self._dropped.append(batch.drop_label.float().cpu())
        noise = torch.cat([batch.noise.cpu().double().flatten() for batch in micro_batches])
        wave = torch.cos(torch.arange(len(noise), dtype=torch.float64))
        self._noise.append((noise @ wave).item() / math.sqrt(len(noise)))

    def probes(self) -> dict[str, Any]:
        return {
            "order": self._whole.hexdigest()[:12],
            "dropped": torch.cat(self._dropped).mean().item(),
            "noise": self._noise,
        }


def _norm(tensors: Mapping[str, Tensor]) -> float:
    squares = [full_tensor_of(_wide(tensor).square().sum()) for tensor in tensors.values()]
    return math.sqrt(sum(square.item() for square in squares))


def _wide(tensor: Tensor) -> Tensor:
    return tensor.detach().to(widest_float(tensor.device))


def _averages(config: RunConfig) -> dict[str, Any]:
    """Return the probes `lag` and `horizon`, which do not depend on the training.

    The horizon is 1 / (weight of the newest parameters) after LAST_UPDATE updates.
    """
    weight = {"weight": torch.zeros(1)}
    kept, found = averages(config, weight), []
    for update in range(1, AVERAGED_STEPS[-1] + 1):
        weight["weight"] += 1
        for average in kept:
            average.update(weight, applied=torch.ones(()))
            if update in AVERAGED_STEPS:
                found.append(update - average.shadow["weight"].item())
    horizons = []
    for average in averages(config, {"weight": torch.zeros(1)}):
        average.load(average.shadow, {**average.scalars(), "num_updates": LAST_UPDATE})
        average.update({"weight": torch.ones(1)}, applied=torch.ones(()))
        horizons.append(1 / average.shadow["weight"].item())
    return {"lag": found, "horizon": horizons}


def device_facts() -> dict[str, Any]:
    """Return device name and kind, number of threads, and package versions."""
    return {
        "device": device_name(),
        "kind": "cuda" if torch.cuda.is_available() else "cpu",
        "num_threads": torch.get_num_threads(),
        "versions": versions(),
    }
