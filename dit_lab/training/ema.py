"""Exponential moving averages of the weights, in float32, updated once per optimizer step."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class EMA:
    """shadow <- shadow + (1 - d) * (weights - shadow), with d = decay.

    With `warmup`, d = min(decay, (1 + n) / (10 + n)) at the n-th update, so that short runs do not
    average over their initialisation. The counter n is part of the state: losing it on resume
    would restart the warm-up and overwrite the average with the raw weights.
    """

    def __init__(self, weights: Mapping[str, Tensor], *, decay: float, warmup: bool) -> None:
        self.decay = decay
        self.warmup = warmup
        self.shadow = {name: w.detach().float().clone() for name, w in weights.items()}
        device = next(iter(self.shadow.values())).device
        self.num_updates = torch.zeros((), dtype=torch.float64, device=device)

    @property
    def name(self) -> str:
        """How files and options call this average: `ema-0.9999`."""
        return f"ema-{self.decay}"

    @torch.no_grad()
    def update(self, weights: Mapping[str, Tensor], applied: Tensor) -> None:
        """Follow the weights; `applied` () is 1, or 0 where the optimizer step was skipped.

        Everything stays on the device: a skipped step costs no synchronisation.
        """
        applied = applied.to(self.num_updates.device)  # offloaded averages are on the host
        step_size = (1 - self._current_decay()) * applied
        shadow = list(self.shadow.values())
        current = [weights[name].detach().float() for name in self.shadow]
        change = torch._foreach_sub(current, shadow)
        torch._foreach_mul_(change, step_size.float())
        torch._foreach_add_(shadow, change)
        self.num_updates += applied

    def _current_decay(self) -> Tensor:
        decay = torch.full_like(self.num_updates, self.decay)
        if not self.warmup:
            return decay
        return torch.minimum(decay, (1 + self.num_updates) / (10 + self.num_updates))

    def scalars(self) -> dict[str, float]:
        """What belongs in state.json beside the tensors of `shadow`."""
        return {"decay": self.decay, "num_updates": self.num_updates.item()}

    def load(self, shadow: Mapping[str, Tensor], scalars: Mapping[str, float]) -> None:
        """Restore in place, exactly."""
        for name, tensor in self.shadow.items():
            tensor.copy_(shadow[name])
        self.num_updates.fill_(scalars["num_updates"])
