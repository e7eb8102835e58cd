"""Samplers that evaluate the model less often than once per step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dit_lab.core.discrete_diffusion import DiscreteDiffusion, linear_betas
from dit_lab.core.interpolants import Linear
from dit_lab.core.types import Predict, Prediction
from dit_lab.samplers.ancestral import DDIMSampler, DDPMSampler
from dit_lab.samplers.reuse import evaluate_every
from dit_lab.samplers.sde import EulerMaruyama
from tests.mixture import normal, three_spots

CHAIN = DiscreteDiffusion(linear_betas())
SAMPLERS = {
    "ddpm": (DDPMSampler, {}, CHAIN),
    "ddim": (DDIMSampler, {"spacing": "even"}, CHAIN),
    "ddim of a flow": (DDIMSampler, {}, Linear()),
    "ddim with noise": (DDIMSampler, {"eta": 1.0}, Linear()),
    "euler_maruyama": (EulerMaruyama, {}, Linear()),
}
X = torch.linspace(-1, 1, 8, dtype=torch.float64).reshape(2, 1, 2, 2)


def saying(data: Any, *, guided: Any = lambda t: False, log: list[float] | None = None) -> Predict:
    """Whatever x is, the data is `data(t)`."""

    def predict(x: Tensor, t: float) -> Prediction:
        if log is not None:
            log.append(t)
        said = torch.full_like(x, data(t))
        return Prediction(*Linear().ends("data", said, x, t), t, guided(t))

    return predict


def test_it_asks_twice_and_then_at_every_nth_call() -> None:
    asked: list[float] = []
    times = [k / 10 for k in range(10)]
    ask = evaluate_every(3, saying(lambda t: t, log=asked), Linear())
    for t in times:
        ask(X, t)
    assert asked == [times[k] for k in (0, 1, 4, 7)]


def test_an_interval_of_one_changes_nothing() -> None:
    predict = saying(lambda t: t)
    assert evaluate_every(1, predict, Linear()) is predict


def test_between_its_answers_data_goes_on_along_a_line() -> None:
    """Through the last two answers of t ** 2; noise is what x then consists of besides, and the
    variance (here the time) is that of the last answer."""
    ask = evaluate_every(2, saying(lambda t: t**2), Linear())
    expected = {0.1: 0.01, 0.2: 0.04, 0.3: 0.07, 0.4: 0.16, 0.5: 0.22, 0.6: 0.36}
    last = {0.1: 0.1, 0.2: 0.2, 0.3: 0.2, 0.4: 0.4, 0.5: 0.4, 0.6: 0.6}
    for t, data in expected.items():
        x = X * (1 + t)
        found = ask(x, t)
        torch.testing.assert_close(found.data, torch.full_like(X, data))
        torch.testing.assert_close(t * found.data + (1 - t) * found.noise, x)
        assert found.variance_fraction == last[t]


def test_where_guidance_ends_the_line_begins_anew() -> None:
    """Data jumps from 1 to 0 there: nothing goes on from before the jump but the steps up to the
    first that is asked."""
    ask = evaluate_every(3, saying(lambda t: float(t < 0.35), guided=lambda t: t < 0.35), Linear())
    found = [ask(X, k / 10).data.mean().item() for k in range(9)]
    assert found == pytest.approx([1, 1, 1, 1, 0, 0, 0, 0, 0])  # 0.4 is asked, and 0.5 again


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_asks_as_often_as_it_says(name: str) -> None:
    kind, options, path = SAMPLERS[name]
    asked: list[float] = []
    mixture = three_spots()
    ideal = mixture.predictor(path)

    def predict(x: Tensor, t: float) -> Prediction:
        asked.append(t)
        return ideal(x, t)

    kind(steps=20, cache_interval=3, **options).sample(
        predict, normal(4, mixture.shape, seed=0), interpolant=path,
        draw_noise=lambda step: normal(4, mixture.shape, seed=1 + step),
    )  # fmt: skip
    assert len(asked) == 2 + 18 // 3
    assert asked == sorted(asked)


@pytest.mark.parametrize("name", SAMPLERS)
def test_more_steps_with_reuse_beat_fewer_without(name: str) -> None:
    """Twenty evaluations either way, on data whose ideal prediction is known."""
    kind, options, path = SAMPLERS[name]
    mixture = three_spots()

    def distance(steps: int, interval: int) -> float:
        out = kind(steps=steps, cache_interval=interval, **options).sample(
            mixture.predictor(path), normal(20_000, mixture.shape, seed=0), interpolant=path,
            draw_noise=lambda step: normal(20_000, mixture.shape, seed=1 + step),
        )  # fmt: skip
        return mixture.distance(out)

    assert distance(2 + 18 * 3, 3) < 0.85 * distance(20, 1)
