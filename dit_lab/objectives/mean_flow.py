"""MeanFlow (Geng et al. 2025, "Mean Flows for One-step Generative Modeling").

The model predicts the average velocity u(x_t, t, s) of the trajectory between two times, so that
one evaluation jumps from t to s: x_s = x_t + (s - t) u. Differentiating (s - t) u, the integral of
the velocity v from t to s, by t gives the MeanFlow identity (eq. 6; the paper's time runs from data
to noise):

    u = v + (s - t) du/dt

The right side, without gradient, is the target. With s = t it is flow matching.

Shapes: N images, C channels, H x W pixels or latent cells.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from dit_lab.core.interpolants import Linear
from dit_lab.core.types import Batch, ModelCall, ModelNeeds
from dit_lab.objectives.checks import check_guidance_inside
from dit_lab.objectives.derivative import along, widened
from dit_lab.objectives.flow import FlowObjective


class TwoTimes(FlowObjective):
    """Base class of the objectives of an average velocity on the straight path.

    Args:
        times: options of the distribution of times, as in `FlowObjective`.
    """

    needs = ModelNeeds(second_time=True)

    def __init__(self, **times: Any) -> None:
        super().__init__(Linear(), **times)

    def ask(self, predict: ModelCall, x: Tensor, t: Tensor, s: Tensor, **more: Any) -> Tensor:
        """Return the average velocity (N, C, H, W) between the flow times t and s, each (N,)."""
        scale = self.time_scale
        return widened(self._value(predict(x, scale * t, to=scale * s, **more)))


def indices_of(chosen: Tensor) -> Tensor:
    """Return the indices of the chosen images (N,) bool, or the first image if there are none.

    All processes then evaluate the model equally often, as a sharded model requires.
    """
    indices = torch.nonzero(chosen).flatten()
    return indices if len(indices) else chosen.new_zeros(1, dtype=torch.int64)


class AlongTrajectory(TwoTimes):
    """Base class of the objectives with the derivative of the average velocity.

    Args:
        equal_share, weight_power, weight_constant, derivative: as in `MeanFlow`.
        times: as in `TwoTimes`.
    """

    def __init__(
        self,
        *,
        equal_share: float,
        weight_power: float,
        weight_constant: float,
        derivative: str,
        **times: Any,
    ) -> None:
        super().__init__(**times)
        self.equal_share = equal_share
        self.weight_power, self.weight_constant = weight_power, weight_constant
        self.derivative = derivative

    def draws(self, uniform: Callable[[str], Tensor]) -> Mapping[str, Tensor]:
        """Return the second draw of the time, and where both times are equal, each (N,)."""
        return {
            "second_time": self.time_from_uniform(uniform("second_time")),
            "equal": uniform("equal") < self.equal_share,
        }

    def times(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the flow times t and s >= t of each image, (N,) each."""
        second = batch.draws["second_time"]
        t = torch.minimum(batch.time, second)
        return t, torch.where(batch.draws["equal"], t, torch.maximum(batch.time, second))

    def _weighted(self, squares: Tensor) -> dict[str, Tensor]:
        """Return the loss terms for squared errors (N, D)."""
        error = squares.mean(1)
        if self.weight_power == 0:
            return {"loss": error, "error": error}
        size = error.detach() + self.weight_constant / squares.shape[1]
        return {"loss": error / size**self.weight_power, "error": error}

    def _correction(
        self,
        predict: ModelCall,
        x: Tensor,
        t: Tensor,
        s: Tensor,
        velocity: Tensor,
        *,
        conditions: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Return (s - t) du/dt (N, C, H, W), which is only computed where s and t differ."""
        correction = torch.zeros_like(x)
        if self.equal_share == 1:
            return correction
        part = indices_of(s > t)
        later = s[part]
        more: dict[str, Any] = {"labels": predict.labels[part]}
        if conditions is not None:
            more["conditions"] = {name: value[part] for name, value in conditions.items()}

        def average_velocity(x: Tensor, t: Tensor) -> Tensor:
            return self.ask(predict, x, t, later, **more)

        slope = along(average_velocity, x[part], t[part], velocity[part], by=self.derivative)
        correction[part] = (later - t[part]).reshape(-1, 1, 1, 1) * slope
        return correction


class MeanFlow(AlongTrajectory):
    """MeanFlow with an optional classifier-free guidance in its target.

    Args:
        equal_share: share of the images with s = t. The larger and the smaller of two draws of the
            distribution are s and t of the others.
        weight_power: p of the weight (D / (squared norm of the error + c))^p of an image of D
            values, without gradient (Geng et al. 2025, eq. 22; their p = 1, up to a constant factor
            for other p). With 0 the loss is the mean squared error.
        weight_constant: c of that weight.
        derivative: "jvp" or "difference", see `derivative.along`.
        guidance_omega, guidance_kappa: the velocity in the target is omega v + kappa u(t, t, label)
            + (1 - omega - kappa) u(t, t, null label) (eq. 19), which amounts to a guidance scale
            of omega / (1 - kappa). 1 and 0: no guidance.
        guidance_interval: flow times with that guidance.
        time_sampling, logit_mean, logit_std, time_shift, time_scale, learn_sigma: as in
            `FlowObjective`.

    Raises:
        RequestError: an option is invalid or conflicts with another.
    """

    def __init__(
        self,
        *,
        equal_share: float = 0.75,
        weight_power: float = 1.0,
        weight_constant: float = 1e-3,
        derivative: str = "jvp",
        guidance_omega: float = 1.0,
        guidance_kappa: float = 0.0,
        guidance_interval: tuple[float, float] = (0.2, 1.0),
        time_sampling: str = "logit_normal",
        logit_mean: float = 0.4,
        logit_std: float = 1.0,
        time_shift: float | str = 1.0,
        time_scale: float = 1.0,
        learn_sigma: bool = False,
        latent_shape: tuple[int, int, int] | None = None,
    ) -> None:
        check_guidance_inside(guidance_omega, guidance_kappa, guidance_interval)
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
        self.omega, self.kappa = guidance_omega, guidance_kappa
        self.interval = guidance_interval

    def loss(self, predict: ModelCall, batch: Batch) -> dict[str, Tensor]:
        """Return the loss terms of each image.

        Returns:
            "loss", the weighted error, which is minimised, and "error", the mean squared error;
            (N,) float32 each.
        """
        t, s = self.times(batch)
        x = self.interpolant.interpolate(batch.data, batch.noise, t)
        velocity = self.interpolant.velocity(batch.data, batch.noise, t)
        velocity = self._guided(predict, x, t, velocity)
        target = velocity + self._correction(predict, x, t, s, velocity)
        error = (self.ask(predict, x, t, s) - target).square().flatten(1)
        return self._weighted(error)

    @torch.no_grad()
    def _guided(self, predict: ModelCall, x: Tensor, t: Tensor, velocity: Tensor) -> Tensor:
        """Return the velocity with guidance, for images with a label and within the interval."""
        null = predict.null_label
        if (self.omega, self.kappa) == (1.0, 0.0) or null is None:
            return velocity
        labels = predict.labels
        guided = self.omega * velocity
        if self.kappa:
            guided = guided + self.kappa * self.ask(predict, x, t, t)
        share = 1 - self.omega - self.kappa
        nulls = torch.full_like(labels, null)
        guided = guided + share * self.ask(predict, x, t, t, labels=nulls)
        low, high = self.interval
        where = (labels != null) & (t >= low) & (t <= high)
        return torch.where(where.reshape(-1, 1, 1, 1), guided, velocity)
