"""Classifier-free guidance: what moves, what a second pass costs, and when it is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dit_lab.objectives.ddpm import DDPM
from dit_lab.objectives.rectified_flow import RectifiedFlow
from dit_lab.samplers.guidance import Guidance, predictor
from dit_lab.types import Predict, RequestError

X = torch.randn(16, 2, 2, 2, generator=torch.Generator().manual_seed(0))


class Counting:
    """A model whose answer is linear in the label; counts calls and images."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.times: list[Tensor] = []

    def __call__(self, x: Tensor, time: Tensor, labels: Tensor) -> Tensor:
        self.calls.append(len(x))
        self.times.append(time)
        shift = labels.to(x.dtype).reshape(-1, 1, 1, 1)
        return torch.cat([x + shift, 0.1 * x - shift], dim=1)


LABELS = torch.arange(16) % 3
NULL = 3


def guided(model: Counting, guidance: Guidance, null_label: int | None = NULL) -> Predict:
    return predictor(model, DDPM(), LABELS, null_label=null_label, guidance=guidance)


@pytest.mark.parametrize("channels", [None, 1, 2])
def test_guidance_is_linear_in_its_scale(channels: int | None) -> None:
    """Noise moves by scale on guided channels; others and the variance stay conditional."""
    shift = LABELS.float().reshape(-1, 1, 1, 1)
    count = 2 if channels is None else channels
    for scale in (0.0, 1.0, 2.5, 4.0):
        found = guided(Counting(), Guidance(scale=scale, channels=channels))(X, 0.5)
        moved = (X + NULL) + scale * (shift - NULL)
        torch.testing.assert_close(found.noise[:, :count], moved[:, :count])
        torch.testing.assert_close(found.noise[:, count:], (X + shift)[:, count:])
        assert isinstance(found.variance_fraction, Tensor)
        torch.testing.assert_close(found.variance_fraction, (0.1 * X - shift + 1) / 2)


def test_guidance_runs_one_double_batch_and_only_where_it_acts() -> None:
    model = Counting()
    predict = guided(model, Guidance(scale=2.0, interval=(0.25, 0.75)))
    for t in (0.0, 0.25, 0.5, 0.75, 0.76, 1.0):
        predict(X, t)
    assert model.calls == [16, 32, 32, 32, 16, 16]
    plain = Counting()
    guided(plain, Guidance(), null_label=None)(X, 0.5)
    assert plain.calls == [16]


def test_outside_the_interval_guidance_changes_nothing() -> None:
    off = guided(Counting(), Guidance())(X, 0.9)
    outside = guided(Counting(), Guidance(scale=7.0, interval=(0.0, 0.8)))(X, 0.9)
    assert torch.equal(off.noise, outside.noise) and torch.equal(off.data, outside.data)


def test_model_receives_float32_time_in_its_unit() -> None:
    model = Counting()
    guided(model, Guidance(scale=2.0))(X, DDPM().interpolant.flow_time(143))
    assert model.times[0].dtype == torch.float32
    assert torch.equal(model.times[0], torch.full((32,), 143.0))
    flow = predictor(
        lambda x, time, labels: model(x, time, labels)[:, :2],
        RectifiedFlow(),
        LABELS,
        null_label=NULL,
        guidance=Guidance(),
    )
    flow(X, 0.25)
    assert torch.equal(model.times[1], torch.full((16,), 250.0))


def test_impossible_guidance_is_refused() -> None:
    with pytest.raises(RequestError, match="has no null label"):
        guided(Counting(), Guidance(scale=2.0), null_label=None)
    with pytest.raises(RequestError, match=r"\[0\.8, 0\.2\] is not a span"):
        Guidance(interval=(0.8, 0.2))
    with pytest.raises(RequestError, match="channels: 0"):
        Guidance(channels=0)
    with pytest.raises(RequestError, match="channels: 3 of 2"):
        guided(Counting(), Guidance(scale=2.0, channels=3))(X, 0.5)
