"""Guard against non-finite losses and gradients: such steps are skipped, counted and diagnosed.

The flag of a step is a tensor on the device, which every process computes identically from the loss
and the gradient norm of the global batch, so that all processes skip the step and no host waits for
its device.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dit_lab.core.errors import Diverged
from dit_lab.core.text import counted
from dit_lab.core.types import Batch, ProcessGroup
from dit_lab.training.batches import Order
from dit_lab.training.state import TrainState
from dit_lab.training.tensor_files import rows_of

MOST_SKIPPED = 0.1  # fraction of all steps
SHOWN_IMAGES = 5
SHOWN_WEIGHTS = 10
ADVICE = "Try a lower optimizer.lr, a longer schedule.warmup_steps or precision=fp32"


class NonFiniteGuard:
    """Counters, on the device, of the steps whose loss or gradients were not finite.

    The host waits for the device only in `too_many`.
    """

    def __init__(
        self, state: TrainState, *, max_in_a_row: int, total_steps: int, device: torch.device
    ) -> None:
        self._state = state
        self._max_in_a_row, self._total_steps = max_in_a_row, total_steps
        self._total = torch.tensor(float(state.skipped_steps), device=device)
        self._in_a_row = torch.tensor(float(state.skipped_in_a_row), device=device)
        self._longest = torch.tensor(float(state.longest_skipped), device=device)

    def flag(self, loss: Tensor, grad_norm: Tensor) -> Tensor:
        """Return 1.0 () if this step must be skipped, else 0.0, and count it."""
        finite = torch.isfinite(loss) & torch.isfinite(grad_norm.to(loss.device))
        nonfinite = 1 - finite.float()
        self._total += nonfinite
        self._in_a_row = (self._in_a_row + nonfinite) * nonfinite
        self._longest = torch.maximum(self._longest, self._in_a_row)
        return nonfinite

    def too_many(self) -> bool:
        """Copy the counters into the state, and return whether training should stop.

        It should if the longest streak of skipped steps reached its maximum, or if more than a
        tenth of all steps of the training were skipped.
        """
        counters = torch.stack([self._total, self._in_a_row, self._longest]).tolist()
        state = self._state
        state.skipped_steps, state.skipped_in_a_row, state.longest_skipped = map(int, counters)
        return (
            state.longest_skipped >= self._max_in_a_row
            or state.skipped_steps > MOST_SKIPPED * self._total_steps
        )


def refuse_nonfinite(
    process_group: ProcessGroup, groups: Mapping[str, Mapping[str, Tensor]], *, step: int
) -> None:
    """Raise Diverged in every process if a tensor of a group, such as "model", is not finite."""

    def found() -> list[str]:
        return [
            f"{group}/{name}"
            for group, tensors in groups.items()
            for name, good in zip(tensors, _are_finite(tensors.values()), strict=True)
            if not good
        ]

    bad = sorted({name for of_one in process_group.every(found) for name in of_one})
    if bad:
        raise Diverged(
            f"{bad[0]}{f' and {len(bad) - 1} more' if bad[1:] else ''} are not finite after step "
            f"{step}, and are not saved. {ADVICE}",
            {"step": step, "not_finite": bad},
        )


def _are_finite(tensors: Iterable[Tensor]) -> list[bool]:
    """Return for each tensor whether this process's part of it is finite, in one transfer."""
    flags = [torch.isfinite(rows_of(tensor).tensor).all() for tensor in tensors]
    return [bool(flag) for flag in torch.stack(flags).tolist()]


def explain(
    process_group: ProcessGroup,
    state: TrainState,
    *,
    last_step: Sequence[tuple[Batch, Tensor]],
    order: Order,
    weights: Mapping[str, Tensor],
) -> Diverged:
    """Return the error for too many skipped steps, the same in every process.

    Args:
        process_group: the processes that train together.
        state: position of the training and its numbers of skipped steps.
        last_step: micro-batches of this process, each with the losses (N,) of its images.
        order: maps sample counters to indices of training images.
        weights: parameters by name.
    """
    found = process_group.every(lambda: [_suspects(order, *of_one) for of_one in last_step])
    suspects = [
        {"process": process, **image}
        for process, of_process in enumerate(found)
        for images in of_process
        for image in images
    ]
    largest = process_group.every(lambda: _largest(weights))
    merged = {name: max(of_one[name] for of_one in largest) for name in largest[0]}
    widest = sorted(merged, key=lambda name: merged[name], reverse=True)[:SHOWN_WEIGHTS]
    streak = state.skipped_in_a_row
    diagnosis = {
        "step": state.step,
        "first_step": state.step - streak + 1,
        "skipped_steps": state.skipped_steps,
        "longest_skipped": state.longest_skipped,
        "images": suspects,
        "largest_weights": {name: merged[name] for name in widest},
    }
    return Diverged(
        f"loss or gradients were not finite in {state.skipped_steps} of "
        f"{counted(state.step, 'step')}, "
        f"{state.longest_skipped} of them in a row{_where(suspects, state)}; these steps were "
        f"skipped. {ADVICE}",
        diagnosis,
    )


def _suspects(order: Order, batch: Batch, loss: Tensor) -> list[dict[str, Any]]:
    """Return the images of a micro-batch whose loss is not finite."""
    bad = ~torch.isfinite(loss).cpu()
    counters = batch.sample_counter.cpu()[bad]
    data = torch.isfinite(batch.data).flatten(1).all(dim=1).cpu()[bad]
    columns = {
        "image": order.indices(counters).tolist(),
        "sample_counter": counters.tolist(),
        "label": batch.labels.cpu()[bad].tolist(),
        "time": batch.time.cpu()[bad].tolist(),
        "data_is_finite": data.tolist(),
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _largest(weights: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the largest magnitude in this process's part of each parameter."""
    held = {name: rows_of(weight).tensor for name, weight in weights.items()}
    return {name: rows.abs().max().item() if rows.numel() else 0.0 for name, rows in held.items()}


def _where(suspects: Sequence[Mapping[str, Any]], state: TrainState) -> str:
    """Describe the images of the last step with a non-finite loss; "" if that step was finite."""
    if not state.skipped_in_a_row:
        return ""
    if not suspects:
        return f" (step {state.step}: every image's loss was finite and the gradients were not)"
    images = ", ".join(str(image["image"]) for image in suspects[:SHOWN_IMAGES])
    more = len(suspects) - SHOWN_IMAGES
    and_more = f" and {more} more" if more > 0 else ""
    return f" (step {state.step}: training images {images}{and_more})"
