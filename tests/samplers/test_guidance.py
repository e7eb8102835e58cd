"""Guidance by the null label or by a weaker model: effects, cost of the second pass, refusals."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dit_lab.core.errors import RequestError
from dit_lab.core.types import LabelledCall, Predict
from dit_lab.objectives.ddpm import DDPM
from dit_lab.objectives.rectified_flow import RectifiedFlow
from dit_lab.samplers.guidance import Guidance, guide, predictor

X = torch.randn(16, 2, 2, 2, generator=torch.Generator().manual_seed(0))


class Counting:
    """A model whose output is linear in the label; counts calls and images."""

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
    with pytest.raises(RequestError, match=r"rescale: 1\.5 is not in \[0, 1\]"):
        Guidance(rescale=1.5)


# ---- rescaling ----------------------------------------------------------------------------------


def outputs() -> tuple[Tensor, Tensor]:
    """Raw outputs of two data channels and two of variance, each image of another width."""
    source = torch.Generator().manual_seed(1)
    widths = torch.linspace(0.2, 3, 16, dtype=torch.float64).reshape(-1, 1, 1, 1)
    plain, other = torch.randn(2, 16, 4, 3, 3, generator=source, dtype=torch.float64)
    return widths * plain + 0.3, other


def widths(images: Tensor) -> Tensor:
    """The standard deviation of all numbers of each image."""
    return images.flatten(1).std(1)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rescale", [0.0, 0.25, 0.7, 1.0])
def test_rescaling_gives_back_the_width_of_the_plain_output(channels: int, rescale: float) -> None:
    """All of it at 1, in proportion before; what is not guided stays, the variance among it."""
    plain, other = outputs()
    found = guide(plain, other, scale=4.0, channels=channels, rescale=rescale)
    unscaled = guide(plain, other, scale=4.0, channels=channels)
    before, after = widths(plain[:, :channels]), widths(unscaled[:, :channels])
    assert (after - before).abs().min() > 0.1  # guidance did change it
    expected = rescale * before + (1 - rescale) * after
    torch.testing.assert_close(widths(found[:, :channels]), expected)
    factor = (expected / after).reshape(-1, 1, 1, 1)
    torch.testing.assert_close(found[:, :channels], factor * unscaled[:, :channels])
    assert torch.equal(found[:, channels:], plain[:, channels:])


def test_rescaling_nothing_is_guidance_without_it() -> None:
    plain, other = outputs()
    alike = (guide(plain, other, scale=4.0, channels=2, **options) for options in
             ({}, {"rescale": 0.0}))  # fmt: skip
    assert torch.equal(*alike)


def test_rescaling_reaches_the_sampler() -> None:
    """At an objective's own time, only where guidance acts, and without the variance."""
    guidance = Guidance(scale=3.0, rescale=1.0, interval=(0.0, 0.5))
    found, plain = (guided(Counting(), one)(X, 0.25) for one in (guidance, Guidance()))
    torch.testing.assert_close(widths(found.noise), widths(plain.noise))
    assert not torch.allclose(found.noise, plain.noise)
    assert torch.equal(found.variance_fraction, plain.variance_fraction)
    late = [guided(Counting(), one)(X, 0.75).noise for one in (guidance, Guidance())]
    assert torch.equal(*late)


def test_an_output_without_contrast_is_rescaled_to_itself() -> None:
    """A DiT before its first step predicts 0 everywhere."""
    nothing = torch.zeros(2, 2, 3, 3)
    assert torch.equal(guide(nothing, nothing, scale=2.0, channels=2, rescale=0.7), nothing)


# ---- away from a weaker model -------------------------------------------------------------------


class Weak:
    """Half of the output of Counting, shifted; records its inputs."""

    def __init__(self) -> None:
        self.calls: list[tuple[Tensor, Tensor, Tensor]] = []

    def __call__(self, x: Tensor, time: Tensor, labels: Tensor) -> Tensor:
        self.calls.append((x, time, labels))
        return 0.5 * Counting()(x, time, labels) + 1


def away(
    model: LabelledCall, weak: LabelledCall, guidance: Guidance, null_label: int | None
) -> Predict:
    return predictor(model, DDPM(), LABELS, null_label=null_label, guidance=guidance, weak=weak)


@pytest.mark.parametrize("null_label", [NULL, None])
@pytest.mark.parametrize("scale", [0.0, 0.5, 2.5])
def test_guidance_goes_away_from_a_weak_model(scale: float, null_label: int | None) -> None:
    """weak + scale (model - weak), whether or not the model knows a null label."""
    model, weak = Counting(), Weak()
    found = away(model, weak, Guidance(scale=scale), null_label)(X, 0.5)
    strong = X + LABELS.float().reshape(-1, 1, 1, 1)
    feeble = 0.5 * strong + 1
    torch.testing.assert_close(found.noise, feeble + scale * (strong - feeble))
    plain = guided(Counting(), Guidance())(X, 0.5)
    assert torch.equal(found.variance_fraction, plain.variance_fraction)  # the model's own


def test_both_models_are_asked_once_and_alike() -> None:
    """With the same images, times and labels, none of which is the null label."""
    strong, weak = Weak(), Weak()
    away(strong, weak, Guidance(scale=2.0), NULL)(X, 0.5)
    ((x, time, labels),), ((same_x, same_time, same_labels),) = strong.calls, weak.calls
    assert torch.equal(labels, LABELS) and torch.equal(x, X)
    assert torch.equal(time, torch.full((16,), DDPM().model_time(0.5)))
    assert torch.equal(same_labels, labels)
    assert torch.equal(same_x, x) and torch.equal(same_time, time)


def test_a_weak_model_is_asked_within_the_interval_only() -> None:
    model, weak = Counting(), Weak()
    predict = away(model, weak, Guidance(scale=2.0, interval=(0.25, 0.75)), None)
    asked = []
    for t in (0.0, 0.25, 0.5, 0.75, 0.76, 1.0):
        before = len(weak.calls)
        predict(X, t)
        asked.append(len(weak.calls) - before)
    assert asked == [0, 1, 1, 1, 0, 0]
    assert model.calls == [16] * 6
    outside, plain = predict(X, 0.9), guided(Counting(), Guidance())(X, 0.9)
    assert torch.equal(outside.noise, plain.noise) and torch.equal(outside.data, plain.data)


def test_at_scale_1_the_weak_model_is_never_asked() -> None:
    model, weak = Counting(), Weak()
    predict = away(model, weak, Guidance(scale=1.0), NULL)
    for t in (0.0, 0.5, 1.0):
        assert torch.equal(predict(X, t).noise, guided(Counting(), Guidance())(X, t).noise)
    assert (model.calls, weak.calls) == ([16] * 3, [])


def test_channels_and_rescaling_hold_for_a_weak_model_too() -> None:
    strong = X + LABELS.float().reshape(-1, 1, 1, 1)
    one = away(Counting(), Weak(), Guidance(scale=3.0, channels=1), None)(X, 0.5).noise
    assert torch.equal(one[:, 1:], strong[:, 1:])
    assert not torch.allclose(one[:, :1], strong[:, :1])
    rescaled = away(Counting(), Weak(), Guidance(scale=3.0, rescale=1.0), None)(X, 0.5).noise
    torch.testing.assert_close(widths(rescaled), widths(strong))
