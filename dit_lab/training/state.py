"""What a training has to remember: its position, the means it logs, and how to save and restore."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dit_lab.training.checkpoint import Checkpoint, load_weights
from dit_lab.training.ema import EMA
from dit_lab.training.optim import load_optimizer_tensors, optimizer_tensors


@dataclass(kw_only=True)
class TrainState:
    """Position of a run. The data position and every random draw follow from `step`."""

    step: int = 0  # finished optimizer steps, skipped ones included
    evaluated_step: int = 0  # the last step at which the evaluators have run
    skipped_steps: int = 0  # steps whose loss or gradient was not finite
    skipped_in_a_row: int = 0
    results: dict[str, float] = field(default_factory=dict)  # latest value of each evaluation


class Window:
    """Means since the last logged step, summed on the device: nothing waits for the host.

    Steps that were skipped do not count. Part of a checkpoint, so that the first mean after a
    resume covers the same steps.
    """

    def __init__(self, device: torch.device) -> None:
        self._zero = torch.zeros((), dtype=torch.float64, device=device)
        self._sums: dict[str, Tensor] = {}
        self._steps = self._zero

    def add(self, values: Mapping[str, Tensor], *, applied: Tensor) -> None:
        """Add the scalars of one step; `applied` () is 1, or 0 for a skipped step."""
        for name, value in values.items():
            kept = torch.where(applied > 0, value.detach().double(), self._zero)
            self._sums[name] = self._sums.get(name, self._zero) + kept
        self._steps = self._steps + applied

    def means(self) -> dict[str, float]:
        """Means over the window, in one transfer (NaN without a step); the window starts anew."""
        means = {name: total / self._steps for name, total in self._sums.items()}
        values = torch.stack(list(means.values())).tolist() if means else []
        self._sums, self._steps = {}, self._zero
        return dict(zip(means, values, strict=True))

    def scalars(self) -> dict[str, Any]:
        sums = {name: total.item() for name, total in self._sums.items()}
        return {"sums": sums, "steps": self._steps.item()}

    def load(self, scalars: Mapping[str, Any]) -> None:
        self._sums = {name: self._zero + total for name, total in scalars["sums"].items()}
        self._steps = self._zero + scalars["steps"]


class Clock:
    """Times training steps; evaluations and saves run while it is paused."""

    def __init__(self, step: int) -> None:
        self._step = step
        self._seconds = 0.0
        self._waited = 0.0
        self._since = time.perf_counter()

    def seconds_per_step(self, step: int) -> tuple[float, float]:
        """Mean since the last reading, which starts anew, and how much of it was waiting."""
        now = time.perf_counter()
        steps = step - self._step
        means = (self._seconds + now - self._since) / steps, self._waited / steps
        self._step, self._seconds, self._waited, self._since = step, 0.0, 0.0, now
        return means

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time inside as waiting for data."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not count the time inside."""
        self._seconds += time.perf_counter() - self._since
        yield
        self._since = time.perf_counter()


class NonFiniteGuard:
    """Counts steps whose loss or gradients were not finite, on the device.

    The host looks only when `check` is called, so a streak that has ended by then passes.
    """

    def __init__(self, state: TrainState, *, max_in_a_row: int, device: torch.device) -> None:
        self._state = state
        self._max_in_a_row = max_in_a_row
        self._total = torch.tensor(float(state.skipped_steps), device=device)
        self._in_a_row = torch.tensor(float(state.skipped_in_a_row), device=device)

    def flag(self, loss: Tensor, grad_norm: Tensor) -> Tensor:
        """1.0 () where this step must not be taken, else 0.0; also counted."""
        nonfinite = 1 - (torch.isfinite(loss) & torch.isfinite(grad_norm)).float()
        self._total += nonfinite
        self._in_a_row = (self._in_a_row + nonfinite) * nonfinite
        return nonfinite

    def check(self) -> None:
        """Bring the counters to the host, and stop after too long a streak."""
        total, in_a_row = torch.stack([self._total, self._in_a_row]).tolist()
        self._state.skipped_steps, self._state.skipped_in_a_row = int(total), int(in_a_row)
        if in_a_row >= self._max_in_a_row:
            raise FloatingPointError(
                f"loss or gradients were not finite for {int(in_a_row)} steps in a row up to step "
                f"{self._state.step}; these steps were skipped and the weights are finite. "
                "Try a lower optimizer.lr, a longer schedule.warmup_steps or precision=fp32"
            )


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Everything that a checkpoint holds, by reference: saved from here and restored into here."""

    model: nn.Module  # unwrapped
    optimizer: Optimizer
    emas: Sequence[EMA]
    state: TrainState
    window: Window

    @property
    def _names(self) -> dict[Tensor, str]:
        return {parameter: name for name, parameter in self.model.named_parameters()}

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """File name (without ending) -> tensors by name."""
        return {
            "model": self.model.state_dict(),
            **{ema.name: ema.shadow for ema in self.emas},
            "optimizer/state": optimizer_tensors(self.optimizer, self._names),
        }

    def scalars(self) -> dict[str, Any]:
        return {
            "train": asdict(self.state),
            "window": self.window.scalars(),
            "emas": {ema.name: ema.scalars() for ema in self.emas},
            "num_threads": torch.get_num_threads(),
        }

    def restore(self, checkpoint: Checkpoint) -> list[str]:
        """Put everything back in place, exactly; returns what the user should know."""
        scalars = checkpoint.state()
        load_weights(self.model, checkpoint.tensors("model"), source=checkpoint.path)
        for ema in self.emas:
            ema.load(checkpoint.tensors(ema.name), scalars["emas"][ema.name])
        load_optimizer_tensors(self.optimizer, self._names, checkpoint.tensors("optimizer/state"))
        for name, value in scalars["train"].items():
            setattr(self.state, name, value)
        self.window.load(scalars["window"])
        notes = [f"resumed at step {self.state.step}"]
        if scalars["num_threads"] != torch.get_num_threads():
            notes.append(
                f"the checkpoint was written with {scalars['num_threads']} threads, this process "
                f"has {torch.get_num_threads()}: results agree, but not to the last bit"
            )
        return notes
