"""Guidance, and the bridge from a model to a sampler.

A model that was trained with some labels dropped can be asked twice, with the label and with the
null label; the difference points towards the class (classifier-free guidance, Ho & Salimans 2022).
Or a weaker model is asked the same; the difference points away from its mistakes (autoguidance,
Karras et al. 2024). Guidance goes `scale` times as far: other + scale * (model - other). Scale 1
is the plain model and costs no second pass.

Shapes: N images, C data channels, K output channels (C, or 2C with learn_sigma), H x W.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dit_lab.core.errors import RequestError
from dit_lab.core.types import LabelledCall, Objective, Predict, Prediction


@dataclass(frozen=True, slots=True)
class Guidance:
    """How strongly, when and where the difference of two predictions counts.

    scale: 1 is off. The other common convention, weight w, is scale 1 + w.
    interval: the span of flow time t (0 noise, 1 data, both ends included) in which it acts
        (Kynkäänniemi et al. 2024).
    channels: guide only this many of the data channels; None is all, the original DiT has 3.
    rescale: how far the guided output is brought back to the standard deviation of the plain one,
        0 not at all, 1 all the way (Lin et al. 2024, section 3.4; 0.7 there).
    """

    scale: float = 1.0
    interval: tuple[float, float] = (0.0, 1.0)
    channels: int | None = None
    rescale: float = 0.0

    def __post_init__(self) -> None:
        low, high = self.interval
        if not 0 <= low <= high <= 1:
            raise RequestError(f"guidance.interval: [{low}, {high}] is not a span within [0, 1]")
        if self.channels is not None and self.channels < 1:
            raise RequestError(f"guidance.channels: {self.channels} is not at least 1")
        if not 0 <= self.rescale <= 1:
            raise RequestError(f"guidance.rescale: {self.rescale} is not in [0, 1]")

    def acts_at(self, t: float) -> bool:
        """Whether a second pass is needed at flow time t."""
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
    """What a sampler is given: (x (N, C, H, W), flow time t) -> Prediction, guided.

    labels (N,) int64. With `weak`, a model of the same objective, guidance goes away from it; else
    away from the null label, both branches in one batch of 2N. `null_label` None means a model that
    never saw labels dropped (or has none); it can only be guided by a weak one.
    """
    if guidance.scale != 1 and null_label is None and weak is None:
        raise RequestError(
            f"guidance.scale: {guidance.scale} needs a model trained with labels and with "
            "class_dropout_prob > 0; this one has no null label, use guidance.scale=1"
        )

    def call(asked: LabelledCall, x: Tensor, given: Tensor, t: float) -> Tensor:
        time = torch.full((len(x),), objective.model_time(t), dtype=torch.float32, device=x.device)
        return asked(x, time, given)

    def pair(x: Tensor, t: float) -> tuple[Tensor, Tensor]:
        """Raw outputs: the model's, and the one that guidance goes away from."""
        if weak is not None:
            return call(model, x, labels, t), call(weak, x, labels, t)
        assert null_label is not None
        nulls = torch.full_like(labels, null_label)
        both = call(model, torch.cat([x, x]), torch.cat([labels, nulls]), t)
        conditional, unconditional = both.chunk(2)
        return conditional, unconditional

    def predict(x: Tensor, t: float) -> Prediction:
        if not guidance.acts_at(t):
            return objective.prediction(call(model, x, labels, t), x, t)
        output = guide(
            *pair(x, t),
            scale=guidance.scale,
            channels=_guided_channels(guidance, x.shape[1]),
            rescale=guidance.rescale,
        )
        return replace(objective.prediction(output, x, t), guided=True)

    return predict


def guide(
    output: Tensor, other: Tensor, *, scale: float, channels: int, rescale: float = 0.0
) -> Tensor:
    """Raw outputs (N, K, H, W) to the guided one: its first `channels` move, the rest stay.

    What stays, the variance channels among it, is that of `output`.
    """
    plain, start = output[:, :channels], other[:, :channels]
    moved = start + scale * (plain - start)
    if rescale:
        before, after = (
            part.flatten(1).std(1, correction=0).reshape(-1, 1, 1, 1) for part in (plain, moved)
        )
        ratio = torch.where(after > 0, before / after, 1.0)  # what has no contrast keeps none
        moved = moved * (rescale * ratio + 1 - rescale)
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
