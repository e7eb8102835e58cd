"""Methods that align tokens of the model with features of a teacher.

Shapes: N images, T tokens, D width of the model, Z of the teacher's features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, smooth_l1_loss

from dit_lab.core.calls import Asked, Evaluated, ModelCall, Progress, Uniform
from dit_lab.core.method import Method
from dit_lab.core.types import Batch, Objective
from dit_lab.methods.options import late_block, repa_needs, sra_needs

Teacher = Callable[[Tensor], Tensor]
"""Maps images (N, c, h, w) in [-1, 1] to features of their patches (N, T, Z)."""


class Repa(Method):
    """Representation alignment (Yu et al. 2024, "Representation Alignment for Generation").

    Minus the mean cosine of projected tokens and features of the clean image by a frozen encoder,
    times `weight`.

    Args:
        depth: number of blocks of the model.
        teacher: the encoder, on the grid of the model's tokens.
        features: width Z of its features.
        weight: weight of the loss.
        block: block whose tokens are projected, from 1; None for 2/7 of the blocks.
        projector: "mlp" of three layers, or "convolution" of 3 x 3 (Singh et al. 2025, iREPA).
        hidden_width: width of the layers of the MLP.
        spatial_mean: share of the mean over the tokens that is subtracted from the features, after
            which they are divided by their standard deviation (iREPA: 0.6); None for neither.
        until: share of the training after which the loss is 0.
    """

    takes_images = True

    def __init__(
        self,
        *,
        depth: int,
        teacher: Teacher,
        features: int,
        weight: float = 0.5,
        block: int | None = None,
        projector: str = "mlp",
        hidden_width: int = 2048,
        spatial_mean: float | None = None,
        until: float = 1.0,
    ) -> None:
        self._teacher, self.weight = teacher, weight
        self.spatial_mean, self.until = spatial_mean, until
        self.depends_on_end = until < 1
        self.needs = repa_needs(
            depth=depth,
            block=block,
            projector=projector,
            hidden_width=hidden_width,
            features=features,
        )

    def asks(self, batch: Batch, progress: Progress) -> Asked:
        return {"heads": ["repa"]}

    def terms(
        self, seen: Evaluated, predict: ModelCall, batch: Batch, objective: Objective
    ) -> dict[str, Tensor]:
        """Return "loss" and "cosine", (N,) each."""
        tokens = seen.output.heads["repa"].float()
        if predict.progress.share >= self.until:
            nothing = 0 * tokens.flatten(1).sum(1)  # all parameters have a gradient, as DDP expects
            return {"loss": nothing, "cosine": nothing}
        assert batch.images is not None
        with torch.no_grad():
            features = self._normalised(self._teacher(batch.images).float())
        cosine = cosine_similarity(tokens, features, dim=2).mean(1)
        return {"loss": -self.weight * cosine, "cosine": cosine}

    def _normalised(self, features: Tensor) -> Tensor:
        """Return features (N, T, Z) without a share of their spatial mean."""
        if self.spatial_mean is None:
            return features
        centred = features - self.spatial_mean * features.mean(1, keepdim=True)
        return centred / (centred.std(1, keepdim=True) + 1e-6)


class Sra(Method):
    """Self-representation alignment (Jiang et al. 2025, "No Other Representation Component").

    Projected tokens of one block follow those of a later block of the averaged model at a time
    nearer to the data, with the same noise: smooth L1 loss with beta 0.05, times `weight`.

    Args:
        width: width D of the model.
        depth: number of its blocks.
        weight: weight of the loss.
        student_block: block whose tokens are projected, from 1; None for 2/7 of the blocks.
        teacher_block: block of the averaged model; None for 5/7 of the blocks.
        distance: the times are at most this far apart, uniformly.
    """

    averaged_weights = True

    def __init__(
        self,
        *,
        width: int,
        depth: int,
        weight: float = 0.5,
        student_block: int | None = None,
        teacher_block: int | None = None,
        distance: float = 0.2,
    ) -> None:
        self.weight, self.distance = weight, distance
        self.teacher_block = teacher_block or late_block(depth)
        self.needs = sra_needs(width=width, depth=depth, block=student_block)

    def draws(self, uniform: Uniform) -> Mapping[str, Tensor]:
        return {"distance": (self.distance * uniform("distance")).float()}

    def asks(self, batch: Batch, progress: Progress) -> Asked:
        return {"heads": ["sra"]}

    @torch.no_grad()
    def _features(
        self, seen: Evaluated, predict: ModelCall, batch: Batch, objective: Objective
    ) -> Tensor:
        """Return the tokens (N, T, D) of the averaged model at the time nearer to the data."""
        scale, path = objective.model_time(1.0), objective.interpolant
        t = (seen.time / scale + batch.draws["distance"]).clamp(max=path.t_max)
        x = path.interpolate(batch.data, batch.noise, t)
        output = predict.output(
            x, scale * t, weights="average", hidden=[self.teacher_block], main=False
        )
        return output.hidden[self.teacher_block]

    def terms(
        self, seen: Evaluated, predict: ModelCall, batch: Batch, objective: Objective
    ) -> dict[str, Tensor]:
        """Return "loss" (N,)."""
        tokens = seen.output.heads["sra"].float()
        features = self._features(seen, predict, batch, objective).float()
        apart = smooth_l1_loss(tokens, features, beta=0.05, reduction="none").flatten(1).mean(1)
        return {"loss": self.weight * apart}
