"""Construction of the objects that the training loop takes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from dit_lab.build.evaluation import build_teacher
from dit_lab.build.initial import load_initial_weights
from dit_lab.build.methods import training_objective
from dit_lab.build.optimizer import build_optimizer
from dit_lab.build.parts import (
    Parts,
    build,
    build_batches,
    build_examples,
    build_model,
    null_label,
)
from dit_lab.config.schema import RunConfig
from dit_lab.core.options import target_of
from dit_lab.core.types import Evaluator, Hook
from dit_lab.training.batches import TrainingBatches
from dit_lab.training.distributed import DistributedContext
from dit_lab.training.ema import EMA, Average, PowerAverage, ScheduleFree
from dit_lab.training.float8 import multiplies_float8
from dit_lab.training.loop import LoopSettings, train
from dit_lab.training.optimizers.options import SCHEDULE_FREE
from dit_lab.training.snapshots import Snapshots


def training_objects(
    parts: Parts, context: DistributedContext, *, begin: bool, on_message: Callable[[str], None]
) -> dict[str, Any]:
    """Return the arguments of the training loop that determine the weights.

    With `begin`, the model starts from the weights of `init_from`.
    """
    config = parts.config
    plain = build_model(parts)
    if begin:
        load_initial_weights(plain, config, parts.shapes, on_message=on_message)
    device = context.accelerator.device
    if config.precision.mixed_precision == "fp8" and not multiplies_float8(device):
        on_message(f"precision=fp8: emulated and slow: this {device.type} has no float8 matmul")
    model = context.parallel_model(
        plain,
        sharded=config.distributed.sharded,
        processes_per_copy=config.distributed.processes_per_copy,
        cpu_offload=config.distributed.cpu_offload,
        compiled=config.training.compile,
    )
    objective = training_objective(parts, partial(build_teacher, parts, context.check_stop))
    dataset, codec = build_examples(parts, "train")
    optimizer, weights = (
        build_optimizer(config, model.module),
        dict(model.module.named_parameters()),
    )
    return {
        "accelerator": context.accelerator,
        "process_group": context.process_group,
        "model": model,
        "null_label": null_label(parts),
        "objective": objective,
        "batches": build_batches(
            parts,
            objective=objective,
            dataset=dataset,
            codec=codec,
            process_index=context.process_group.index,
            num_processes=context.process_group.size,
        ),
        "optimizer": optimizer,
        "schedule": build(config, "schedule"),
        "emas": [*_of_optimizer(config, weights, optimizer), *averages(config, weights)],
    }


def averages(config: RunConfig, weights: Mapping[str, Tensor]) -> list[Average]:
    """Return the averages of these weights; the first is evaluated if the optimizer keeps none."""
    options = config.ema
    emas = [EMA(weights, decay=decay, warmup=options.warmup) for decay in options.decays]
    return [*emas, *(PowerAverage(weights, std=std) for std in options.power_stds)]


def _of_optimizer(
    config: RunConfig, weights: Mapping[str, Tensor], optimizer: Optimizer
) -> list[Average]:
    schedule_free = target_of(config.optimizer) == SCHEDULE_FREE
    return [ScheduleFree(weights, optimizer)] if schedule_free else []


def loop_settings(
    config: RunConfig,
    batches: TrainingBatches,
    *,
    log_every_steps: int,
    checkpoint_every_steps: int,
) -> LoopSettings:
    """Return the settings of the training loop, with these intervals of logging and checkpoints."""
    training = config.training
    return LoopSettings(
        total_steps=training.total_steps,
        clip_norm=training.clip_norm,
        log_every_steps=log_every_steps,
        checkpoint_every_steps=checkpoint_every_steps,
        max_skipped_in_a_row=training.max_skipped_in_a_row,
        images_per_epoch=len(batches.dataset),
    )


def train_steps(
    config: RunConfig,
    objects: Mapping[str, Any],
    context: DistributedContext,
    *,
    steps: int,
    log_every_steps: int,
    hooks: Sequence[Hook],
    evaluators: Sequence[Evaluator] = (),
) -> None:
    """Run at most `steps` steps of a training, without checkpoints.

    Args:
        objects: The result of `training_objects`. Weights and optimizer continue from their present
            state; batches start from the first.
        evaluators: Replace those of the configuration.
    """
    count = _Count()

    def check_stop() -> None:
        context.check_stop()
        if count.steps == steps:
            raise _Enough

    with contextlib.suppress(_Enough):
        train(
            **objects,
            snapshots=Snapshots(None, averages=[], every_steps=0),
            checkpoints=None,
            resume_from=None,
            evaluators=evaluators,
            hooks=[*hooks, count],
            settings=loop_settings(
                config,
                objects["batches"],
                log_every_steps=log_every_steps,
                checkpoint_every_steps=0,
            ),
            check_stop=check_stop,
        )


class _Enough(Exception):  # noqa: N818 - not an error
    """The requested number of steps is done."""


class _Count(Hook):
    """Counter of finished steps."""

    def __init__(self) -> None:
        self.steps = 0

    def on_step(self, step: int) -> None:
        self.steps = step
