"""The contract of training methods. Torch-free.

Shapes: N images.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from dit_lab.core.calls import Asked, Evaluated, ModelCall, ModelNeeds, Progress, Uniform
from dit_lab.core.types import Batch, Objective

if TYPE_CHECKING:
    from torch import Tensor


class Method(Protocol):
    """Something that is added to training: a loss of hidden tokens, a route for tokens, a head.

    All members but `asks` and `terms` are optional. The constructor may take the `width`, `depth`
    and number of `tokens` of the model besides its options. An option `group_images`, for terms
    that relate images to each other, must divide the micro-batch of a process.
    """

    needs: ModelNeeds = ModelNeeds()  # what the model must have
    averaged_weights: bool = False  # `terms` evaluates averaged weights
    takes_images: bool = False  # `terms` needs the images that `Batch.data` was encoded from
    depends_on_end: bool = False  # whether a term of a step depends on `total_steps`

    def draws(self, uniform: Uniform) -> Mapping[str, Tensor]:
        """Return random values of each image, by name, as `Objective.draws`."""
        return {}

    def asks(self, batch: Batch, progress: Progress) -> Asked:
        """Return what the evaluation with gradients shall return or do besides: heads, a route."""

    def terms(
        self, seen: Evaluated, predict: ModelCall, batch: Batch, objective: Objective
    ) -> dict[str, Tensor]:
        """Return the terms of the loss, by name, each (N,) float32.

        "loss" is added to that of the objective, and all are logged as `METHOD/NAME`.

        Args:
            seen: The evaluation of the objective's loss.
            predict: The model, for further evaluations.
            batch: As the objective gets it, with the draws of this method alone.
            objective: The objective.
        """
