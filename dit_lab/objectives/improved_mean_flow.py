"""Improved MeanFlow (Geng et al. 2025, "Improved Mean Flows").

The MeanFlow identity read as a regression on the velocity: V = u - (s - t) du/dt, with du/dt
without gradient, is trained on v, so that the target does not depend on the model. The derivative
is taken along the velocity that a second head of the model predicts. The scale and the interval of
guidance are inputs of the model, drawn in training and free in sampling, where a step stays one
evaluation.

Shapes: N images, C channels, H x W pixels or latent cells.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from dit_lab.core.calls import GUIDANCE, VELOCITY
from dit_lab.core.types import Batch, ModelCall
from dit_lab.objectives.derivative import widened
from dit_lab.objectives.mean_flow import AlongTrajectory
from dit_lab.objectives.options import FROM, UNTIL, improved_needs


class ImprovedMeanFlow(AlongTrajectory):
    """Improved MeanFlow.

    Args:
        velocity_blocks: blocks of the second head's own.
        most_guidance: guidance scales are drawn from 1 to 1 + this number.
        guidance_power: beta of their density, proportional to scale^-beta.
        equal_share, weight_power, weight_constant, derivative, time_sampling, logit_mean,
            logit_std, time_shift, time_scale, learn_sigma: as in `MeanFlow`.

    Raises:
        RequestError: an option is invalid.
    """

    def __init__(
        self,
        *,
        velocity_blocks: int = 1,
        most_guidance: float = 7.0,
        guidance_power: float = 1.0,
        equal_share: float = 0.5,
        weight_power: float = 1.0,
        weight_constant: float = 1e-2,
        derivative: str = "jvp",
        time_sampling: str = "logit_normal",
        logit_mean: float = 0.4,
        logit_std: float = 1.0,
        time_shift: float | str = 1.0,
        time_scale: float = 1.0,
        learn_sigma: bool = False,
        latent_shape: tuple[int, int, int] | None = None,
    ) -> None:
        super().__init__(
            equal_share=equal_share,
            weight_power=weight_power,
            weight_constant=weight_constant,
            derivative=derivative,
            time_sampling=time_sampling,
            logit_mean=logit_mean,
            logit_std=logit_std,
            time_shift=time_shift,
            time_scale=time_scale,
            learn_sigma=learn_sigma,
            latent_shape=latent_shape,
        )
        self.needs = improved_needs(velocity_blocks)
        self.most_guidance, self.guidance_power = most_guidance, guidance_power

    def draws(self, uniform: Callable[[str], Tensor]) -> Mapping[str, Tensor]:
        """Return the draws of the times, a guidance scale and an interval of flow times."""
        times = super().draws(uniform)
        always = times["equal"]
        return {
            **times,
            GUIDANCE: self._scale_from_uniform(uniform("guidance")).float(),
            FROM: torch.where(always, 0.0, uniform("guidance_from") / 2).float(),
            UNTIL: torch.where(always, 1.0, 0.5 + uniform("guidance_until") / 2).float(),
        }

    def _scale_from_uniform(self, u: Tensor) -> Tensor:
        """Return guidance scales for uniform draws: the quantile function of their density."""
        most, left = math.log1p(self.most_guidance), 1 - self.guidance_power
        if left == 0:
            return torch.exp(u * most)
        return torch.exp(torch.log1p(u * math.expm1(left * most)) / left)

    def conditions(self, *, scale: float, interval: tuple[float, float]) -> Mapping[str, float]:
        """Return the inputs of the model for a guidance scale and an interval of flow times."""
        return self._given(scale, *interval)

    def _given(self, scale: Any, low: Any, high: Any) -> dict[str, Any]:
        """Return the inputs of the model by name, as numbers or as tensors (N,)."""
        inputs = {GUIDANCE: 1 - 1 / scale, FROM: low, UNTIL: high}
        return {name: self.time_scale * value for name, value in inputs.items()}

    def loss(self, predict: ModelCall, batch: Batch) -> dict[str, Tensor]:
        """Return the loss terms of each image.

        Returns:
            "loss", the sum of both weighted errors, which is minimised; "error" and
            "velocity_error", the mean squared errors of V and of the second head; (N,) float32.
        """
        t, s = self.times(batch)
        x = self.interpolant.interpolate(batch.data, batch.noise, t)
        flow = self.interpolant.velocity(batch.data, batch.noise, t)
        scale, low, high = (batch.draws[name] for name in (GUIDANCE, FROM, UNTIL))
        given = self._given(scale, low, high)
        target, tangent = self._guided_velocity(predict, batch, x, t, flow)

        scaled = self.time_scale * t, self.time_scale * s
        output = predict.output(x, scaled[0], to=scaled[1], conditions=given, heads=[VELOCITY])
        average, velocity = (widened(self._value(y)) for y in (output.main, output.heads[VELOCITY]))
        compound = average - self._correction(predict, x, t, s, tangent, conditions=given)
        of_average = self._weighted((compound - target).square().flatten(1))
        of_velocity = self._weighted((velocity - target).square().flatten(1))
        return {
            "loss": of_average["loss"] + of_velocity["loss"],
            "error": of_average["error"],
            "velocity_error": of_velocity["error"],
        }

    @torch.no_grad()
    def _guided_velocity(
        self, predict: ModelCall, batch: Batch, x: Tensor, t: Tensor, flow: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the guided velocity, and the head's velocity along which u is differentiated.

        The guided velocity is v + (1 - 1 / scale) (head(label) - head(null label)), and v itself
        outside of the interval and for dropped labels.
        """
        low, high = batch.draws[FROM], batch.draws[UNTIL]
        inside = (t >= low) & (t <= high)
        scale = torch.where(inside, batch.draws[GUIDANCE], 1.0)
        labelled = self._head(predict, x, t, scale, batch.labels)
        null = predict.null_label
        if null is None:
            return flow, labelled
        ones = torch.ones_like(scale)
        unlabelled = self._head(predict, x, t, ones, torch.full_like(batch.labels, null))
        share = torch.where(predict.labels == null, 0.0, 1 - 1 / scale)
        return flow + share.reshape(-1, 1, 1, 1) * (labelled - unlabelled), labelled

    def _head(
        self, predict: ModelCall, x: Tensor, t: Tensor, scale: Tensor, labels: Tensor
    ) -> Tensor:
        """Return the velocity (N, C, H, W) of the second head, with guidance at all times."""
        conditions = self._given(scale, torch.zeros_like(t), torch.ones_like(t))
        time = self.time_scale * t
        output = predict.output(
            x, time, to=time, labels=labels, conditions=conditions, heads=[VELOCITY], main=False
        )
        return widened(self._value(output.heads[VELOCITY]))
