"""Several optimizers as one: each has weights of its own, and all step together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer


class Combined(Optimizer):
    """Optimizers side by side. `param_groups` and `state` are those of all of them, in order; what
    is changed in a group is changed in the optimizer that has it."""

    def __init__(self, parts: Sequence[Optimizer]) -> None:
        """`parts` may be combined themselves. (The base class would make a group of its own.)"""
        self.parts = [part for several in parts for part in parts_of(several)]
        self.defaults: dict[str, Any] = {}

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        return [group for part in self.parts for group in part.param_groups]

    @property
    def state(self) -> dict[Tensor, Any]:  # type: ignore[override]
        return {weight: held for part in self.parts for weight, held in part.state.items()}

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        assert closure is None
        for part in self.parts:
            part.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none)


def parts_of(optimizer: Optimizer) -> list[Optimizer]:
    """The optimizers that one is made of."""
    return optimizer.parts if isinstance(optimizer, Combined) else [optimizer]
