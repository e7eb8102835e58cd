"""Averages of the parameters in float32, updated once per optimizer step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from dit_lab.core.devices import widest_float
from dit_lab.training.average_names import SCHEDULE_FREE
from dit_lab.training.power import gamma_of, name_of


class Average(ABC):
    """Averaged parameters for sampling and evaluation."""

    shadow: Mapping[str, Tensor]
    """Averaged parameters by name, float32."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Name of the average in files and options."""

    @abstractmethod
    def update(self, weights: Mapping[str, Tensor], applied: Tensor) -> None:
        """Update from the parameters; `applied` () is 1, or 0 if the optimizer step was skipped."""

    @abstractmethod
    def scalars(self) -> dict[str, float]:
        """Return the scalars for state.json."""

    @abstractmethod
    def load(self, shadow: Mapping[str, Tensor], scalars: Mapping[str, float]) -> None:
        """Restore the average exactly, in place."""


class Running(Average):
    """Running average: shadow <- shadow + (1 - d) * (weights - shadow); d may depend on the update.

    The number of updates is part of the state; without it, the average would restart on resume.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self.shadow = {name: w.detach().float().clone() for name, w in weights.items()}
        device = next(iter(self.shadow.values())).device
        self.num_updates = torch.zeros((), dtype=widest_float(device), device=device)

    @abstractmethod
    def _current_decay(self) -> Tensor:
        """Return d () of the next update, in the device's widest float dtype."""

    @torch.no_grad()
    def update(self, weights: Mapping[str, Tensor], applied: Tensor) -> None:
        """Update from the parameters; `applied` () is 1, or 0 if the optimizer step was skipped.

        On a GPU, the step size stays a tensor to avoid a sync. On the CPU, a number allows one pass
        over memory instead of three.
        """
        applied = applied.to(self.num_updates.device)  # offloaded averages are on the CPU
        step_size = (1 - self._current_decay()) * applied
        shadow = list(self.shadow.values())
        current = [weights[name].detach().float() for name in self.shadow]
        if step_size.device.type == "cpu":
            torch._foreach_lerp_(shadow, current, step_size.item())
        else:
            change = torch._foreach_sub(current, shadow)
            torch._foreach_mul_(change, step_size.float())
            torch._foreach_add_(shadow, change)
        self.num_updates += applied

    def load(self, shadow: Mapping[str, Tensor], scalars: Mapping[str, float]) -> None:
        for name, tensor in self.shadow.items():
            tensor.copy_(shadow[name])
        self.num_updates.fill_(scalars["num_updates"])


class EMA(Running):
    """Exponential moving average: d = decay.

    With `warmup`, d = min(decay, (1 + n) / (10 + n)) at the n-th update, so that short runs do not
    average over their initialisation.
    """

    def __init__(self, weights: Mapping[str, Tensor], *, decay: float, warmup: bool) -> None:
        super().__init__(weights)
        self.decay = decay
        self.warmup = warmup

    @property
    def name(self) -> str:
        """`ema-0.9999`."""
        return f"ema-{self.decay}"

    def _current_decay(self) -> Tensor:
        decay = torch.full_like(self.num_updates, self.decay)
        if not self.warmup:
            return decay
        return torch.minimum(decay, (1 + self.num_updates) / (10 + self.num_updates))

    def scalars(self) -> dict[str, float]:
        return {"decay": self.decay, "num_updates": self.num_updates.item()}


class PowerAverage(Running):
    """Power-function average, see `power.py`: d = (1 - 1/t) ** (gamma + 1) at update t = 1, 2, ...

    Karras et al. 2024, equation 2. The first update copies the parameters, so that the
    initialisation has no weight.
    """

    def __init__(self, weights: Mapping[str, Tensor], *, std: float) -> None:
        """Start an average of relative width `std`, above 0 and below 1/sqrt(12)."""
        super().__init__(weights)
        self.std = std
        self.gamma = gamma_of(std)

    @property
    def name(self) -> str:
        """`power-0.1`."""
        return name_of(self.std)

    def _current_decay(self) -> Tensor:
        return (1 - 1 / (self.num_updates + 1)) ** (self.gamma + 1)

    def scalars(self) -> dict[str, float]:
        return {"std": self.std, "num_updates": self.num_updates.item()}


class ScheduleFree(Average):
    """The average x of schedule-free AdamW: y = (1 - beta) z + beta x.

    The parameters are y and the optimizer's state holds z. So x needs no memory, no update, and no
    checkpoint of its own.
    """

    name = SCHEDULE_FREE

    def __init__(self, weights: Mapping[str, Tensor], optimizer: Optimizer) -> None:
        self._weights, self._optimizer = weights, optimizer

    @property
    @torch.no_grad()
    def shadow(self) -> Mapping[str, Tensor]:  # type: ignore[override]
        """Averaged parameters by name, computed at each access."""
        state = self._optimizer.state
        beta = {w: group["betas"][0] for group in self._groups for w in group["params"]}

        def averaged(weight: Tensor) -> Tensor:
            y, z = weight.detach(), state.get(weight, {}).get("z")
            return y if z is None or weight not in beta else y.lerp(z, 1 - 1 / beta[weight])

        return {name: averaged(weight).float() for name, weight in self._weights.items()}

    @property
    def _groups(self) -> list[dict[str, Any]]:
        """Parameter groups of schedule-free AdamW; other groups may have another optimizer."""
        return [group for group in self._optimizer.param_groups if "weight_sum" in group]

    def update(self, weights: Mapping[str, Tensor], applied: Tensor) -> None:
        """Do nothing: the average follows from the optimizer's state."""

    def scalars(self) -> dict[str, float]:
        return {"num_updates": float(max((group["k"] for group in self._groups), default=0))}

    def load(self, shadow: Mapping[str, Tensor], scalars: Mapping[str, float]) -> None:
        """Do nothing: the average is restored with the parameters and the optimizer."""
