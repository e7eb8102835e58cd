"""What a configuration computes that must not depend on chance: a fingerprint of a training's first
steps and of a sampler, in seconds.

A loss says little: label dropout changes that of the first steps by 1e-5, the decay of an average
never. So everything that decides a result has a number of its own, with a tolerance for rounding.

Shapes: N images, C channels, H x W cells.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Generator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dit_lab.build.parts import Parts, build_generator, build_model, build_parts, labelled_call
from dit_lab.build.training import averages, train_steps, training_objects
from dit_lab.config.schema import RunConfig
from dit_lab.core import rng
from dit_lab.core.types import Batch, Hook, Shapes
from dit_lab.runs.provenance import device_name, versions
from dit_lab.sampling.generate import CHUNK_IMAGES, Passes
from dit_lab.training.batches import TrainingBatches
from dit_lab.training.distributed import DistributedContext
from dit_lab.training.parallel import whole_of
from dit_lab.training.stop import StopSignal

STEPS = 50
AVERAGED_STEPS = (1, 10, 100, 1000, 2000)
IMAGES = 8
MOST_TIMES = 25  # of a sampler's grid


def probe(config: RunConfig, shapes: Shapes, *, training: bool = True) -> dict[str, Any]:
    """Every probe by name: a number, a text, or a list of numbers; without `training`, those of
    sampling alone. Nothing is written.

    losses, noise: of steps 1 to 50; weights, averages: norms after them; order: a hash of which
    images, labels and drops they had; dropped: the share of labels; lag: of each average behind a
    weight that grows with every update; images: of fixed weights by the sampler and
    the guidance, mean, deviation and a projection of each; evaluations, times: of the model for an
    image.
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
        trained = {**_training(parts, context), **_lag(config)} if training else {}
        return {**trained, **_sampling(parts, stop)}


# ---- the first steps of a training ---------------------------------------------------------------


def _training(parts: Parts, context: DistributedContext) -> dict[str, Any]:
    objects = training_objects(parts, context, begin=False, on_message=lambda text: None)
    seen = _Seen(objects["batches"])
    losses = _Losses()

    train_steps(
        parts.config,
        {**objects, "batches": seen},
        context,
        steps=STEPS,
        log_every_steps=1,
        hooks=[losses],
    )
    weights = dict(objects["model"].module.named_parameters())
    return {
        "losses": losses.values,
        "weights": _norm(weights),
        "averages": [_norm(average.shadow) for average in objects["emas"]],
        **seen.probes(),
    }


class _Losses(Hook):
    """The loss of every step."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        if "train/loss" in metrics:
            self.values.append(metrics["train/loss"])


class _Seen:
    """The batches of a training, as the loop takes them, and what is in those of the first steps.

    Noise is real numbers, which other processors round in another way: it is projected, a step at a
    time, onto a wave that no two images share.
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
        noise = torch.cat([batch.noise.double().cpu().flatten() for batch in micro_batches])
        wave = torch.cos(torch.arange(len(noise), dtype=torch.float64))
        self._noise.append((noise @ wave).item() / math.sqrt(len(noise)))

    def probes(self) -> dict[str, Any]:
        return {
            "order": self._whole.hexdigest()[:12],
            "dropped": torch.cat(self._dropped).mean().item(),
            "noise": self._noise,
        }


def _norm(tensors: Mapping[str, Tensor]) -> float:
    squares = [whole_of(tensor.detach().double().square().sum()) for tensor in tensors.values()]
    return math.sqrt(sum(square.item() for square in squares))


def _lag(config: RunConfig) -> dict[str, Any]:
    """How far each average is behind a weight that grows by one with every update."""
    weight = {"weight": torch.zeros(1)}
    kept, found = averages(config, weight), []
    for update in range(1, AVERAGED_STEPS[-1] + 1):
        weight["weight"] += 1
        for average in kept:
            average.update(weight, applied=torch.ones(()))
            if update in AVERAGED_STEPS:
                found.append(update - average.shadow["weight"].item())
    return {"lag": found}


# ---- a sampler -----------------------------------------------------------------------------------


@torch.no_grad()
def _sampling(parts: Parts, stop: StopSignal) -> dict[str, Any]:
    """Images by weights that are random, fixed and nowhere zero."""
    model = build_model(parts)
    fill(model)
    labelled = labelled_call(parts, model.to(parts.device).eval())
    passes, times = Passes(), list[float]()

    def call(x: Tensor, time: Tensor, labels: Tensor) -> Tensor:
        passes(len(x))
        times.append(time[0].item())
        return labelled(x, time, labels)

    generator = build_generator(parts, check_stop=stop.check)
    latents = generator.latents(call, first=0, seed=0)[:IMAGES].double().cpu().flatten(1)
    wave = torch.cos(torch.arange(latents.shape[1], dtype=torch.float64))
    images = [latents.mean(1), latents.std(1), latents @ wave / math.sqrt(len(wave))]
    chosen = torch.linspace(0, len(times) - 1, min(len(times), MOST_TIMES)).round().long().tolist()
    return {
        "images": torch.stack(images, 1).flatten().tolist(),
        "evaluations": passes.per_image(CHUNK_IMAGES),
        "times": [times[index] for index in chosen],
    }


def fill(model: nn.Module) -> None:
    """Every weight drawn, of a size that keeps numbers as large as they were."""
    for name, weight in model.named_parameters():
        fan_in = math.prod(weight.shape[1:]) if weight.dim() > 1 else 16
        drawn = rng.normal(0, f"probe/{name}", torch.zeros(1).long(), tuple(weight.shape))[0]
        weight.copy_(drawn / math.sqrt(fan_in))


def device_facts() -> dict[str, Any]:
    """What probes and runs are computed on, and with which versions."""
    return {
        "device": device_name(),
        "kind": "cuda" if torch.cuda.is_available() else "cpu",
        "num_threads": torch.get_num_threads(),
        "versions": versions(),
    }
