"""Guidance, and the predictor that samplers call.

Classifier-free guidance (Ho & Salimans 2022) evaluates a model that was trained with label dropout
twice, with the label and with the null label. Autoguidance (Karras et al. 2024) evaluates the model
and a weaker one. The guided output is other + scale * (model - other), where "other" is the output
for the null label or of the weaker model. Scale 1 is the unguided model and needs one evaluation.

Shapes: N images, C data channels, K output channels (C, or 2C with learn_sigma), H x W.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dit_lab.core.calls import EARLY, GUIDANCE, Output, needs_of
from dit_lab.core.errors import RequestError
from dit_lab.core.types import LabelledCall, Objective, Predict, Prediction
from dit_lab.samplers.guiding import Projected, ProjectedGuidance, away, rescaled, zero_star

Move = Callable[[Tensor, Tensor, float, float], Tensor]
"""(output, other, scale, flow time) -> guided output."""


@dataclass(frozen=True, slots=True)
class Guidance:
    """Settings of classifier-free guidance and autoguidance.

    Args:
        scale: 1 is off. The other common convention, weight w, is scale 1 + w.
        interval: range of flow time t (0 noise, 1 data, both ends included) in which guidance
            applies (Kynkäänniemi et al. 2024).
        channels: number of data channels that are guided; None for all. The original DiT guides 3.
        rescale: how far to reset the standard deviation of the guided output to that of the
            unguided one, from 0 (not at all) to 1 (Lin et al. 2024, section 3.4, with 0.7).
        kind: "cfg" (also for a weak model), "apg", "cfg_zero_star", or "internal", away from the
            early output of a model that was trained with it.
        projected: options of "apg".
        zero_until: flow time up to which the velocity is 0, for "cfg_zero_star"; None for never.

    Raises:
        RequestError: a value is out of range.
    """

    scale: float = 1.0
    interval: tuple[float, float] = (0.0, 1.0)
    channels: int | None = None
    rescale: float = 0.0
    kind: str = "cfg"
    projected: Projected = Projected()  # noqa: RUF009 - frozen
    zero_until: float | None = None

    def __post_init__(self) -> None:
        low, high = self.interval
        if not 0 <= low <= high <= 1:
            raise RequestError(f"guidance.interval: [{low}, {high}] is not a span within [0, 1]")
        if self.channels is not None and self.channels < 1:
            raise RequestError(f"guidance.channels: {self.channels} is not at least 1")
        if not 0 <= self.rescale <= 1:
            raise RequestError(f"guidance.rescale: {self.rescale} is not in [0, 1]")

    def acts_at(self, t: float) -> bool:
        """Return whether guidance needs a second evaluation at flow time t."""
        low, high = self.interval
        return self.scale != 1 and low <= t <= high


def predictor(
    model: LabelledCall,
    objective: Objective,
    labels: Tensor,
    *,
    null_label: int | None,
    guidance: Guidance,
    weak: LabelledCall | None = None,
) -> Predict:
    """Return the guided predictor for a sampler: (x (N, C, H, W), flow time t) -> Prediction.

    A model that takes the scale of the guidance as an input is evaluated once, with that scale.

    Args:
        model: the model to sample from.
        objective: the objective of the model, which interprets its outputs.
        labels: class labels (N,) int64.
        null_label: the null label, evaluated with `labels` in one batch of 2N images; None if the
            model was trained without label dropout or without labels.
        guidance: scale, interval and channels of the guidance.
        weak: a weaker model of the same objective for autoguidance, which replaces the null label.

    Raises:
        RequestError: guidance is on, but there is neither a null label nor a weak model.
    """
    needs, internal = needs_of(objective), guidance.kind == "internal"
    inside = GUIDANCE in needs.conditions  # the model itself takes the scale
    within = inside or internal
    if guidance.scale != 1 and null_label is None and weak is None and not within:
        raise RequestError(
            f"guidance.scale: {guidance.scale} needs a model trained with labels and with "
            "class_dropout_prob > 0; this one has no null label, use guidance.scale=1"
        )

    move = mover(guidance)

    def call(
        asked: LabelledCall, x: Tensor, given: Tensor, t: float, to: float | None, **more: Any
    ) -> Any:
        def each(value: float) -> Tensor:
            return torch.full((len(x),), value, dtype=torch.float32, device=x.device)

        if needs.second_time and to is not None:
            more["to"] = each(objective.model_time(to))
        if needs.conditions:
            values = objective.conditions(scale=guidance.scale, interval=guidance.interval)
            more["conditions"] = {name: each(value) for name, value in values.items()}
        return asked(x, each(objective.model_time(t)), given, **more)

    def pair(x: Tensor, t: float, to: float | None) -> tuple[Tensor, Tensor]:
        """Return the model's raw output, and the one that guidance moves away from."""
        if internal:
            output: Output = call(model, x, labels, t, to, heads=[EARLY])
            return output.main, output.heads[EARLY]
        if weak is not None:
            return call(model, x, labels, t, to), call(weak, x, labels, t, to)
        assert null_label is not None
        nulls = torch.full_like(labels, null_label)
        both = call(model, torch.cat([x, x]), torch.cat([labels, nulls]), t, to)
        conditional, unconditional = both.chunk(2)
        return conditional, unconditional

    def predict(x: Tensor, t: float, to: float | None = None) -> Prediction:
        if inside or not guidance.acts_at(t):
            return objective.prediction(call(model, x, labels, t, to), x, t)
        output = guide(
            *pair(x, t, to),
            scale=guidance.scale,
            channels=_guided_channels(guidance, x.shape[1]),
            rescale=guidance.rescale,
            t=t,
            move=move,
        )
        return replace(objective.prediction(output, x, t), guided=True)

    return predict


def mover(guidance: Guidance) -> Move:
    """Return the kind of guidance along the trajectories of some images."""
    projected = ProjectedGuidance(guidance.projected)

    def move(output: Tensor, other: Tensor, scale: float, t: float) -> Tensor:
        if guidance.kind == "apg":
            return projected.guided(output, other, scale=scale, t=t)
        if guidance.kind != "cfg_zero_star":
            return away(output, other, scale)
        if guidance.zero_until is not None and t <= guidance.zero_until:
            return torch.zeros_like(output)
        return zero_star(output, other, scale)

    return move


def guide(
    output: Tensor,
    other: Tensor,
    *,
    scale: float,
    channels: int,
    rescale: float = 0.0,
    t: float = 0.0,
    move: Move = lambda output, other, scale, t: away(output, other, scale),
) -> Tensor:
    """Return the guided raw output (N, K, H, W) at flow time t.

    `other` is the raw output for the null label, of the weak model, or the early one. Only the
    first `channels` are guided; all others, such as the variance, are those of `output`.
    """
    plain, start = output[:, :channels], other[:, :channels]
    moved = move(plain, start, scale, t)
    if rescale:
        moved = rescaled(moved, plain, rescale)
    return torch.cat([moved, output[:, channels:]], dim=1)


def _guided_channels(guidance: Guidance, data_channels: int) -> int:
    if guidance.channels is None:
        return data_channels
    if guidance.channels > data_channels:
        raise RequestError(
            f"guidance.channels: {guidance.channels} of {data_channels}; "
            f"use 1 to {data_channels}, or all"
        )
    return guidance.channels
