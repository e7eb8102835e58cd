"""Consistency training in stages (Geng et al. 2024, "Consistency Models Made Easy").

The data predicted at t, from a velocity of the flow, must equal the data predicted at a time r
nearer to the data, for the same noise and without gradient. In stages, r comes closer to t. Where
r = 1, as for little noise in the first stage, the target is the image itself.

Times follow the reference through the ratio of noise to data, e(t) = (1 - t) / t.

Shapes: N images, C channels, H x W pixels or latent cells.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dit_lab.core.interpolants import Linear
from dit_lab.core.types import Batch, ModelCall, Progress
from dit_lab.objectives.derivative import widened
from dit_lab.objectives.flow import EDGE, FlowObjective

SMALLEST = 1e-12
"""Squared norms below this have no gradient, where that of the norm would be infinite."""


class Consistency(FlowObjective):
    """Consistency training on the straight path.

    Args:
        stages: number of stages of equal length over the training. In stage k, from 0, the ratio of
            noise at r is e(t) (1 - adjustment(e(t)) / stage_factor^(k + 1)).
        stage_factor: q of the paper.
        adjust_scale, adjust_slope: k and b of the adjustment 1 + k sigmoid(-b e).
        huber_c: c of the pseudo-Huber norm sqrt(squared norm + c^2) - c of an image's error; 0 for
            the norm.
        time_sampling, logit_mean, logit_std, time_shift, time_scale, learn_sigma: as in
            `FlowObjective`. By default log e(t) is N(-1.1, 2^2), as in the paper.

    Raises:
        RequestError: an option is invalid.
    """

    depends_on_end = True

    def __init__(
        self,
        *,
        stages: int = 8,
        stage_factor: float = 2.0,
        adjust_scale: float = 8.0,
        adjust_slope: float = 1.0,
        huber_c: float = 0.0,
        time_sampling: str = "logit_normal",
        logit_mean: float = 1.1,
        logit_std: float = 2.0,
        time_shift: float | str = 1.0,
        time_scale: float = 1.0,
        learn_sigma: bool = False,
        latent_shape: tuple[int, int, int] | None = None,
    ) -> None:
        super().__init__(
            Linear(),
            time_sampling=time_sampling,
            logit_mean=logit_mean,
            logit_std=logit_std,
            time_shift=time_shift,
            time_scale=time_scale,
            learn_sigma=learn_sigma,
            latent_shape=latent_shape,
        )
        self.stages, self.stage_factor = stages, stage_factor
        self.adjust_scale, self.adjust_slope = adjust_scale, adjust_slope
        self.huber_c = huber_c

    def nearer(self, ratio: Tensor, progress: Progress) -> Tensor:
        """Return the ratio of noise to data (N,) at the nearer time."""
        stage = min(self.stages * progress.step // progress.total_steps, self.stages - 1)
        adjustment = 1 + self.adjust_scale * torch.sigmoid(-self.adjust_slope * ratio)
        return (ratio * (1 - adjustment / self.stage_factor ** (stage + 1))).clamp(min=0)

    def loss(self, predict: ModelCall, batch: Batch) -> dict[str, Tensor]:
        """Return the loss terms of each image.

        Returns:
            "loss", the norm of the error divided by the difference of the ratios of noise, which is
            minimised, and "error", the mean squared error of the data; (N,) float32 each.
        """
        t = batch.time.clamp(EDGE, 1 - EDGE)
        ratio = (1 - t) / t
        near = self.nearer(ratio, predict.progress)
        data = self._data(predict, batch, t)
        with torch.no_grad():
            target = self._data(predict, batch, 1 / (1 + near))
        squares = (data - target).square().flatten(1)
        size = squares.sum(1)
        c = self.huber_c
        norm = (size + c**2).clamp(min=SMALLEST).sqrt() - c
        return {"loss": norm / (ratio - near), "error": squares.mean(1)}

    def _data(self, predict: ModelCall, batch: Batch, t: Tensor) -> Tensor:
        """Return the data (N, C, H, W) predicted at the flow times t (N,); at t = 1 it is x."""
        x = self.interpolant.interpolate(batch.data, batch.noise, t)
        velocity = widened(self._value(predict(x, self.time_scale * t)))
        return x + (1 - t).reshape(-1, 1, 1, 1) * velocity
