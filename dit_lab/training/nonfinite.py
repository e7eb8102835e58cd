"""Steps whose loss or gradients are not finite: skipped, counted, and explained if they go on.

The flag of a step is a number on the device that every process computes alike, from the loss and
the gradient norm of the whole batch, so that all of them skip it and none waits for the host.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dit_lab.core.types import Batch, Team
from dit_lab.training.batches import Order
from dit_lab.training.state import TrainState
from dit_lab.training.tensor_files import rows_of

SHOWN_IMAGES = 5
SHOWN_WEIGHTS = 10


class NonFiniteStreak(FloatingPointError):  # noqa: N818 - says what was met
    """Too many steps in a row could not be taken; `diagnosis` says what is known of the last."""

    def __init__(self, text: str, diagnosis: Mapping[str, Any]) -> None:
        super().__init__(text)
        self.diagnosis = diagnosis


class NonFiniteGuard:
    """Counts steps whose loss or gradients were not finite, on the device.

    The host looks only when `streak` is called, so a streak that has ended by then passes.
    """

    def __init__(self, state: TrainState, *, max_in_a_row: int, device: torch.device) -> None:
        self._state = state
        self._max_in_a_row = max_in_a_row
        self._total = torch.tensor(float(state.skipped_steps), device=device)
        self._in_a_row = torch.tensor(float(state.skipped_in_a_row), device=device)

    def flag(self, loss: Tensor, grad_norm: Tensor) -> Tensor:
        """1.0 () where this step must not be taken, else 0.0; also counted."""
        finite = torch.isfinite(loss) & torch.isfinite(grad_norm.to(loss.device))
        nonfinite = 1 - finite.float()
        self._total += nonfinite
        self._in_a_row = (self._in_a_row + nonfinite) * nonfinite
        return nonfinite

    def too_many(self) -> bool:
        """Bring the counters to the host, into the state; whether the streak is too long."""
        total, in_a_row = torch.stack([self._total, self._in_a_row]).tolist()
        self._state.skipped_steps, self._state.skipped_in_a_row = int(total), int(in_a_row)
        return in_a_row >= self._max_in_a_row


def explain(
    team: Team,
    state: TrainState,
    *,
    last_step: Sequence[tuple[Batch, Tensor]],
    order: Order,
    weights: Mapping[str, Tensor],
) -> NonFiniteStreak:
    """What to raise, the same in every process: where the last step was not finite.

    `last_step`: the micro-batches of this process, each with the loss (N,) of its images; `order`
    knows which images they are.
    """
    found = team.every(lambda: [_suspects(order, *of_one) for of_one in last_step])
    suspects = [
        {"process": process, **image}
        for process, of_process in enumerate(found)
        for images in of_process
        for image in images
    ]
    largest = team.every(lambda: _largest(weights))
    merged = {name: max(of_one[name] for of_one in largest) for name in largest[0]}
    widest = sorted(merged, key=lambda name: merged[name], reverse=True)[:SHOWN_WEIGHTS]
    streak = state.skipped_in_a_row
    diagnosis = {
        "step": state.step,
        "first_step": state.step - streak + 1,
        "images": suspects,
        "largest_weights": {name: merged[name] for name in widest},
    }
    return NonFiniteStreak(
        f"loss or gradients were not finite for {streak} steps in a row up to step {state.step}"
        f"{_where(suspects)}; these steps were skipped and the weights are finite. Try a lower "
        "optimizer.lr, a longer schedule.warmup_steps or precision=fp32",
        diagnosis,
    )


def _suspects(order: Order, batch: Batch, loss: Tensor) -> list[dict[str, Any]]:
    """The images of a micro-batch whose loss is not finite."""
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
    """The largest magnitude in what this process holds of each weight."""
    held = {name: rows_of(weight).tensor for name, weight in weights.items()}
    return {name: rows.abs().max().item() if rows.numel() else 0.0 for name, rows in held.items()}


def _where(suspects: Sequence[Mapping[str, Any]]) -> str:
    """The first images of the last step, in words."""
    if not suspects:
        return ", where every image's loss was finite and the gradients were not"
    images = ", ".join(str(image["image"]) for image in suspects[:SHOWN_IMAGES])
    more = len(suspects) - SHOWN_IMAGES
    return f" (training images {images}{f' and {more} more' if more > 0 else ''})"
