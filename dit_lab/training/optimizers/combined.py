"""Several optimizers as one: each has its own parameters, and all step together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer


class Combined(Optimizer):
    """Optimizer that consists of several; `param_groups` and `state` are concatenated in order.

    A change to a group changes it in the optimizer that it belongs to.
    """

    def __init__(self, parts: Sequence[Optimizer]) -> None:
        """Combine the parts, which may be combined optimizers themselves.

        The base class is not initialised, because it would create a parameter group.
        """
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
    """Return the optimizers that an optimizer consists of."""
    return optimizer.parts if isinstance(optimizer, Combined) else [optimizer]
