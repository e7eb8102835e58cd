"""The training loop, as one function to be read from top to bottom."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.optim import Optimizer

from dit_lab.core.errors import StopRequested
from dit_lab.core.processes import most_memory_bytes
from dit_lab.core.types import (
    Batch,
    Evaluator,
    Hook,
    ModelCall,
    Objective,
    ProcessGroup,
    Progress,
    Schedule,
    is_due,
)
from dit_lab.training.background import BackgroundSaver
from dit_lab.training.batches import TrainingBatches
from dit_lab.training.checkpoint import Checkpoint
from dit_lab.training.checkpoint_store import CheckpointStore
from dit_lab.training.ema import Average
from dit_lab.training.evaluations import Evaluations
from dit_lab.training.nonfinite import NonFiniteGuard, explain, refuse_nonfinite
from dit_lab.training.optimizers.step import gradient_norm, guarded_step, set_learning_rate
from dit_lab.training.parallel import ParallelModel
from dit_lab.training.snapshots import Snapshots
from dit_lab.training.state import Clock, Snapshot, TrainState, Window


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """Numbers that the loop needs; everything else is passed to it as objects."""

    total_steps: int
    clip_norm: float | None
    log_every_steps: int
    checkpoint_every_steps: int
    max_skipped_in_a_row: int
    images_per_epoch: int


def train(
    *,
    accelerator: Accelerator,
    process_group: ProcessGroup,
    model: ParallelModel,
    null_label: int | None,
    objective: Objective,
    batches: TrainingBatches,
    optimizer: Optimizer,
    schedule: Schedule,
    emas: Sequence[Average],
    snapshots: Snapshots,
    checkpoints: CheckpointStore | None,
    resume_from: Checkpoint | None,
    evaluators: Sequence[Evaluator],
    hooks: Sequence[Hook],
    settings: LoopSettings,
    check_stop: Callable[[], None],
    sample_system: Callable[[], dict[str, float]] = dict,
) -> dict[str, float]:
    """Train to `settings.total_steps` and return the last value of every evaluation metric.

    `model` takes (x, time, labels); dropped labels become `null_label` (None: no label dropout).
    Every process of the group calls this function; `checkpoints` is None in processes that have
    nothing of their own to save. Evaluators get the average `emas[0]`. `check_stop` raises
    StopRequested in all processes at the same step; the state is saved before the exception is
    re-raised.
    """
    weights = dict(model.module.named_parameters())
    state, window = TrainState(), Window(accelerator.device)
    saver = BackgroundSaver(checkpoints)
    everything = Snapshot(
        model=model.module, optimizer=optimizer, emas=emas, state=state, window=window
    )

    # 1. Resume: parameters, averages and their counters, optimizer, position, partial means.
    notes = everything.restore(resume_from) if resume_from else []
    guard = NonFiniteGuard(
        state,
        max_in_a_row=settings.max_skipped_in_a_row,
        total_steps=settings.total_steps,
        device=accelerator.device,
    )
    for hook in hooks:
        hook.on_start(first_step=state.step, total_steps=settings.total_steps)
        for note in notes:
            hook.on_message(note)

    def due(every_steps: int) -> bool:
        return is_due(state.step, every_steps=every_steps, total_steps=settings.total_steps)

    last_step: list[tuple[Batch, Tensor]] = []  # micro-batches and the loss of each image

    def check_finite() -> None:
        if guard.too_many():
            raise explain(
                process_group, state, last_step=last_step, order=batches.order, weights=weights
            )

    def check_weights() -> None:
        check_finite()
        averages = {ema.name: ema.shadow for ema in emas}
        refuse_nonfinite(process_group, {"model": weights, **averages}, step=state.step)

    def save() -> None:
        check_weights()  # non-finite values are never written
        snapshots.wait()  # a run that resumes here would not repeat earlier snapshots
        saver.save(state.step, tensors=everything.tensors(), state=everything.scalars())

    def written() -> None:
        try:
            snapshots.wait()
        finally:
            saver.wait()

    evaluations = Evaluations(
        evaluators=evaluators,
        total_steps=settings.total_steps,
        model=model,
        average=emas[0],
        hooks=hooks,
        state=state,
        saver=saver,
    )
    predict = _predictor(
        model, objective, null_label, average=emas[0], total_steps=settings.total_steps
    )
    steps = batches.from_step(state.step)
    try:
        # 2. Snapshots and evaluations that the last stop prevented.
        if resume_from is not None and due(snapshots.every_steps):
            snapshots.save(state.step)
        evaluations.run(evaluations.due())

        clock = Clock(state.step)
        while state.step < settings.total_steps:
            check_stop()
            saver.check()
            snapshots.check()

            # 3. Gradients of one global batch, accumulated over its micro-batches.
            factor = schedule.factor(state.step, settings.total_steps)
            rate = set_learning_rate(optimizer, factor)
            with clock.waiting():
                micro_batches = next(steps)
            sums: dict[str, Tensor] = {}
            last_step.clear()
            for number, batch in enumerate(micro_batches, start=1):
                last = number == len(micro_batches)
                with nullcontext() if last else model.accumulating():
                    terms = objective.loss(predict(batch, state.step), batch)
                    shares = {name: t.mean() / len(micro_batches) for name, t in terms.items()}
                    accelerator.backward(shares["loss"])
                last_step.append((batch, terms["loss"].detach()))
                for name, share in shares.items():
                    sums[name] = sums.get(name, 0) + share.detach()
            sums = accelerator.reduce(sums, reduction="mean")

            # 4. Step the optimizer and each average, unless loss or gradients are not finite.
            norm = gradient_norm(optimizer)
            nonfinite = guard.flag(sums["loss"], norm)
            guarded_step(optimizer, nonfinite, norm=norm, clip_norm=settings.clip_norm)
            optimizer.zero_grad(set_to_none=True)
            for ema in emas:
                ema.update(weights, applied=1 - nonfinite)
            logged = {f"train/{name}": term for name, term in {**sums, "grad_norm": norm}.items()}
            window.add(logged, applied=1 - nonfinite)
            state.step += 1
            for hook in hooks:
                hook.on_step(state.step)

            # 5. Log, save, evaluate; in this order, so that a failed evaluation loses no training.
            if due(settings.log_every_steps):
                check_finite()
                metrics = window.means() | {"train/lr": rate}
                metrics |= _progress(state, settings, batches.global_batch_size, clock)
                metrics |= sample_system()
                for hook in hooks:
                    hook.on_metrics(state.step, metrics)
            with clock.paused():
                chosen = evaluations.due()
                if due(settings.checkpoint_every_steps):
                    save()
                elif chosen:
                    check_weights()
                if due(snapshots.every_steps):
                    snapshots.save(state.step)
                evaluations.run(chosen)
        process_group.every(written)  # no process ends before everything is on disk
    except StopRequested:
        save()
        process_group.every(written)
        raise
    finally:
        steps.close()  # ends the DataLoader workers
        written()  # also after an error: the next start resumes from this checkpoint
    return state.results


def _predictor(
    model: ParallelModel,
    objective: Objective,
    null_label: int | None,
    *,
    average: Average,
    total_steps: int,
) -> Callable[[Batch, int], ModelCall]:
    """Return the model as losses call it, by batch and step; its labels are after label dropout."""
    needs_average = getattr(objective, "averaged_weights", False)
    averaged = model.with_average(average) if needs_average else None

    def predict(batch: Batch, step: int) -> ModelCall:
        labels = batch.labels
        if null_label is not None:
            labels = torch.where(batch.drop_label, null_label, labels)
        return ModelCall(
            model=model,
            labels=labels,
            null_label=null_label,
            averaged=averaged,
            progress=Progress(step, total_steps),
        )

    return predict


def peak_memory_bytes() -> float:
    """Return the peak GPU memory of tensors; without a GPU, the peak memory of the process."""
    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated())
    return float(most_memory_bytes())


def _progress(
    state: TrainState, settings: LoopSettings, global_batch_size: int, clock: Clock
) -> dict[str, float]:
    """Return speed and position for a logged row."""
    seconds, waited = clock.seconds_per_step(state.step)
    images = state.step * global_batch_size
    return {
        "train/images": float(images),
        "train/epochs": images / settings.images_per_epoch,
        "train/skipped_steps": float(state.skipped_steps),
        "perf/images_per_second": global_batch_size / seconds,
        "perf/data_seconds": waited,  # per step, for images, noise and encoding
        "perf/stall_share": waited / seconds,
        "perf/seconds_left": (settings.total_steps - state.step) * seconds,
        "perf/peak_memory_bytes": peak_memory_bytes(),
    }
