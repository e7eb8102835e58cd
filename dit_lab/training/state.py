"""State of a training: position, logged means and timing, and how to save and restore it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dit_lab.core.devices import widest_float
from dit_lab.training.checkpoint import Checkpoint, load_weights
from dit_lab.training.ema import Average
from dit_lab.training.optimizers.state import (
    load_optimizer,
    optimizer_numbers,
    optimizer_tensors,
)


@dataclass(kw_only=True)
class TrainState:
    """Position of a run. The data position and all random values follow from `step`."""

    step: int = 0  # finished optimizer steps, skipped ones included
    evaluated_step: int = 0  # the last step at which the evaluators have run
    skipped_steps: int = 0  # steps whose loss or gradient was not finite
    skipped_in_a_row: int = 0  # current streak of skipped steps
    longest_skipped: int = 0  # longest streak of skipped steps
    results: dict[str, float] = field(default_factory=dict)  # latest value of each evaluation


class Window:
    """Means since the last logged step, summed on the device without synchronisation.

    Skipped steps are excluded. The sums are part of a checkpoint, so that the first mean after a
    resume covers the same steps.
    """

    def __init__(self, device: torch.device) -> None:
        self._zero = torch.zeros((), dtype=widest_float(device), device=device)
        self._sums: dict[str, Tensor] = {}
        self._steps = self._zero

    def add(self, values: Mapping[str, Tensor], *, applied: Tensor) -> None:
        """Add the scalars of one step; `applied` () is 1, or 0 for a skipped step."""
        for name, value in values.items():
            kept = torch.where(applied > 0, value.detach().to(self._zero.dtype), self._zero)
            self._sums[name] = self._sums.get(name, self._zero) + kept
        self._steps = self._steps + applied

    def means(self) -> dict[str, float]:
        """Return the means in one transfer (NaN without a step) and reset the window."""
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
    """Timer of training steps that excludes evaluations and saving."""

    def __init__(self, step: int) -> None:
        self._step = step
        self._seconds = 0.0
        self._waited = 0.0
        self._since = time.perf_counter()

    def seconds_per_step(self, step: int) -> tuple[float, float]:
        """Return mean seconds per step since the last call, and those spent waiting for data."""
        now = time.perf_counter()
        steps = step - self._step
        means = (self._seconds + now - self._since) / steps, self._waited / steps
        self._step, self._seconds, self._waited, self._since = step, 0.0, 0.0, now
        return means

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Context whose time counts as waiting for data."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Context whose time does not count."""
        self._seconds += time.perf_counter() - self._since
        yield
        self._since = time.perf_counter()


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """References to everything that a checkpoint holds, to save from and to restore into."""

    model: nn.Module  # unwrapped
    optimizer: Optimizer
    emas: Sequence[Average]
    state: TrainState
    window: Window

    @property
    def _names(self) -> dict[Tensor, str]:
        return {parameter: name for name, parameter in self.model.named_parameters()}

    def tensors(self) -> dict[str, Mapping[str, Tensor]]:
        """Return the tensor groups: file name (without suffix) -> tensors by name."""
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
            "optimizer": optimizer_numbers(self.optimizer, self._names),
            "num_threads": torch.get_num_threads(),
        }

    def restore(self, checkpoint: Checkpoint) -> list[str]:
        """Restore everything exactly, in place; return notes for the user."""
        scalars = checkpoint.state()
        own = self.model.state_dict()

        def held(name: str) -> dict[str, Tensor]:
            """Read this process's rows of a group; "weight/exp_avg" is sharded like "weight"."""
            group = checkpoint.group(name)
            return {
                key: group.read_like(key, own.get(key.partition("/")[0])) for key in group.names()
            }

        load_weights(self.model, held("model"), source=checkpoint.path)
        for ema in self.emas:
            ema.load(held(ema.name), scalars["emas"][ema.name])
        moments = held("optimizer/state") if checkpoint.holds("optimizer/state") else {}
        same_groups = load_optimizer(self.optimizer, self._names, moments, scalars.get("optimizer"))
        for name, value in checkpoint.position().items():
            setattr(self.state, name, value)
        self.window.load(scalars["window"])
        notes = [f"resumed at step {self.state.step}"]
        if not same_groups:
            notes.append(
                "the optimizer's parameter groups differ from those of the checkpoint: their own "
                "values, such as step sizes, are reset"
            )
        if scalars["num_threads"] != torch.get_num_threads():
            notes.append(
                f"the checkpoint was written with {scalars['num_threads']} threads, this process "
                f"has {torch.get_num_threads()}: results agree, but not to the last bit"
            )
        return notes
