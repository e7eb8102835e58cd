"""Internal guidance: an early output of the model, which sampling moves away from.

Shapes: N images.
"""

from __future__ import annotations

from torch import Tensor

from dit_lab.core.calls import EARLY, Asked, Evaluated, ModelCall, Progress
from dit_lab.core.method import Method
from dit_lab.core.types import Batch, Objective
from dit_lab.methods.options import internal_needs


class InternalGuidance(Method):
    """A final layer after an inner block with the loss of the objective (Zhou et al. 2025).

    `guidance.kind=internal` moves samples from this early output towards the main one, in one
    evaluation of the model.

    Args:
        depth: number of blocks of the model.
        weight: weight of the loss of the early output.
        block: block after which it comes, from 1; None for 2/7 of the blocks.
    """

    def __init__(self, *, depth: int, weight: float = 0.5, block: int | None = None) -> None:
        self.weight = weight
        self.needs = internal_needs(depth=depth, block=block)

    def asks(self, batch: Batch, progress: Progress) -> Asked:
        return {"heads": [EARLY]}

    def terms(
        self, seen: Evaluated, predict: ModelCall, batch: Batch, objective: Objective
    ) -> dict[str, Tensor]:
        """Return "loss" and "error", the loss without its weight, (N,) each."""
        error = objective.loss_of(seen.output.heads[EARLY], batch)["loss"]
        return {"loss": self.weight * error, "error": error}
