"""Methods that compare images with others: within fixed groups of consecutive images.

Groups are made of sample counters, so that the loss does not depend on the number of processes or
on accumulation.

Shapes: N images, g images of a group, T tokens, D width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from dit_lab.core.calls import Asked, Evaluated, ModelCall, Progress, Uniform
from dit_lab.core.method import Method
from dit_lab.core.types import Batch, Objective
from dit_lab.methods.options import early_block


class Dispersive(Method):
    """Dispersive loss (Wang & He 2025, "Diffuse and Disperse"), the variant with squared distances.

    log mean exp(-|h_i - h_j|^2 / (T D tau)) over all pairs of a group, i = j included, for the
    tokens h of one block, times `weight`.

    Args:
        depth: number of blocks of the model.
        weight: weight of the loss.
        block: block whose tokens are dispersed, from 1; None for a quarter of the blocks.
        temperature: tau.
        group_images: g.
    """

    def __init__(
        self,
        *,
        depth: int,
        weight: float = 0.25,
        block: int | None = None,
        temperature: float = 1.0,
        group_images: int = 32,
    ) -> None:
        self.weight, self.temperature = weight, temperature
        self.block = block or early_block(depth)
        self.group_images = group_images

    def asks(self, batch: Batch, progress: Progress) -> Asked:
        return {"hidden": [self.block]}

    def terms(
        self, seen: Evaluated, predict: ModelCall, batch: Batch, objective: Objective
    ) -> dict[str, Tensor]:
        """Return "loss" (N,), which is the same for all images of a group."""
        tokens = seen.output.hidden[self.block].float().flatten(1)
        groups = tokens.unflatten(0, (-1, self.group_images))  # (N / g, g, T D)
        squares = torch.cdist(groups, groups).square() / (tokens.shape[1] * self.temperature)
        pairs = self.group_images**2
        loss = torch.logsumexp(-squares.flatten(1), dim=1) - math.log(pairs)
        return {"loss": self.weight * loss.repeat_interleave(self.group_images)}


class Contrastive(Method):
    """Contrastive flow matching (Stoica et al. 2025): away from the targets of other images.

    Minus `weight` times the loss of the same output with the target of another image of the group.

    Args:
        weight: lambda.
        group_images: g.
    """

    def __init__(self, *, weight: float = 0.05, group_images: int = 32) -> None:
        self.weight, self.group_images = weight, group_images

    def draws(self, uniform: Uniform) -> Mapping[str, Tensor]:
        """Return the distance to the partner in the group, from 1 to g - 1, (N,) int64."""
        return {"partner": 1 + (uniform("partner") * (self.group_images - 1)).long()}

    def asks(self, batch: Batch, progress: Progress) -> Asked:
        return {}

    def terms(
        self, seen: Evaluated, predict: ModelCall, batch: Batch, objective: Objective
    ) -> dict[str, Tensor]:
        """Return "loss" and "error", the loss for the other target, (N,) each."""
        place = torch.arange(len(batch.data), device=batch.data.device)
        first = place - place % self.group_images
        partner = first + (place + batch.draws["partner"]) % self.group_images
        other = replace(batch, data=batch.data[partner], noise=batch.noise[partner])
        error = objective.loss_of(seen.output.main, other)["loss"]
        return {"loss": -self.weight * error, "error": error}
