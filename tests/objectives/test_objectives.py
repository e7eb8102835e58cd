"""Objectives: time distributions, losses in closed form, and the reach of gradients."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from dit_lab.core.errors import RequestError
from dit_lab.core.types import Batch
from dit_lab.objectives.bound import discretised_log_likelihood, gaussian_kl
from dit_lab.objectives.ddpm import DDPM
from dit_lab.objectives.flow_matching import FlowMatching
from dit_lab.objectives.rectified_flow import RectifiedFlow

LARGEST_UNIFORM = 1 - 2.0**-53
FLOWS: list[Any] = [RectifiedFlow, FlowMatching]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def batch_at(time: Tensor) -> Batch:
    count = len(time)
    return Batch(
        sample_counter=torch.arange(count),
        data=normal(count, 2, 4, 4, seed=1).clamp(-1, 1),
        labels=torch.zeros(count, dtype=torch.int64),
        noise=normal(count, 2, 4, 4, seed=2),
        time=time,
        drop_label=torch.zeros(count, dtype=torch.bool),
    )


# Time


def test_ddpm_time_covers_every_timestep_alike() -> None:
    u = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    timesteps = DDPM().time_from_uniform(u)
    assert timesteps.dtype == torch.int64
    assert torch.equal(timesteps.bincount(), torch.full((1000,), 4))
    ends = DDPM(num_timesteps=50).time_from_uniform(
        torch.tensor([0, LARGEST_UNIFORM], dtype=torch.float64)
    )
    assert ends.tolist() == [0, 49]


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("sampling", ["uniform", "logit_normal"])
def test_flow_time_is_valid_at_both_ends(flow: Any, sampling: str) -> None:
    u = torch.tensor([0.0, 2.0**-53, 0.5, LARGEST_UNIFORM], dtype=torch.float64)
    t = flow(time_sampling=sampling).time_from_uniform(u)
    assert t.dtype == torch.float32
    assert bool(((t >= 0) & (t <= 1)).all())
    assert torch.equal(t, t.sort().values)
    if sampling == "logit_normal":
        assert 0 < t[0] < 1e-3 and 1 - 1e-3 < t[-1] < 1  # 8.3 standard deviations out


def test_uniform_time_is_the_number_itself() -> None:
    u = torch.tensor([0.0, 0.25, 0.7], dtype=torch.float64)
    assert torch.equal(RectifiedFlow().time_from_uniform(u), u.float())


def test_logit_normal_quantiles() -> None:
    """The logit at u = Phi(z) is mean + std z; z = -1.6449 and 1.2816 are the 5 % and 90 %."""
    flow = RectifiedFlow(time_sampling="logit_normal", logit_mean=0.4, logit_std=1.5)
    t = flow.time_from_uniform(torch.tensor([0.05, 0.5, 0.9], dtype=torch.float64))
    expected = 0.4 + 1.5 * torch.tensor([-1.6448536, 0.0, 1.2815516])
    torch.testing.assert_close(torch.logit(t), expected, rtol=1e-5, atol=1e-5)


def test_impossible_time_settings_are_refused() -> None:
    with pytest.raises(RequestError, match="unknown 'cosine'; use uniform, logit_normal or cosmap"):
        RectifiedFlow(time_sampling="cosine")
    with pytest.raises(RequestError, match=r"logit_std: 0\.0 is not positive"):
        FlowMatching(time_sampling="logit_normal", logit_std=0.0)


def test_model_time_units() -> None:
    assert RectifiedFlow().model_time(0.25) == 250
    assert RectifiedFlow(time_scale=1.0).model_time(0.25) == 0.25
    objective = DDPM()
    back = [objective.model_time(objective.interpolant.flow_time(k)) for k in range(1000)]
    assert torch.tensor(back, dtype=torch.float32).tolist() == list(range(1000))


# Flows


@pytest.mark.parametrize("flow", FLOWS)
def test_flow_loss_in_closed_form(flow: Any) -> None:
    """A model that answers 0 is charged the squared velocity, one that answers it nothing."""
    objective = flow()
    batch = batch_at(torch.tensor([0.0, 0.3, 1.0]))
    shrink = 1 - getattr(objective.interpolant, "sigma_min", 0.0)
    velocity = batch.data - shrink * batch.noise
    silent = objective.loss(lambda x, time: torch.zeros_like(x), batch)["loss"]
    torch.testing.assert_close(silent, velocity.square().mean((1, 2, 3)))
    exact = objective.loss(lambda x, time: velocity, batch)["loss"]
    torch.testing.assert_close(exact, torch.zeros(3), rtol=0, atol=1e-12)


def test_flow_model_sees_scaled_time_and_the_interpolated_image() -> None:
    batch = batch_at(torch.tensor([0.0, 0.25, 1.0]))
    seen: dict[str, Tensor] = {}

    def model(x: Tensor, time: Tensor) -> Tensor:
        seen.update(x=x, time=time)
        return x

    RectifiedFlow().loss(model, batch)
    assert seen["time"].tolist() == [0, 250, 1000]
    assert torch.equal(seen["x"][0], batch.noise[0])
    assert torch.equal(seen["x"][2], batch.data[2])


def test_flow_matching_without_width_is_rectified_flow() -> None:
    """Exactly: times, losses, gradients and predictions."""
    settings: dict[str, Any] = {"time_sampling": "logit_normal", "logit_mean": 0.3}
    pair = [FlowMatching(sigma_min=0.0, **settings), RectifiedFlow(**settings)]
    u = torch.rand(6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    results = []
    for objective in pair:
        weight = torch.tensor(0.7, requires_grad=True)
        batch = batch_at(objective.time_from_uniform(u))

        def model(x: Tensor, time: Tensor, weight: Tensor = weight) -> Tensor:
            return weight * x + time[:, None, None, None] / 1000

        loss = objective.loss(model, batch)["loss"]
        loss.sum().backward()
        prediction = objective.prediction(batch.noise, batch.data, 0.37)
        results.append((batch.time, loss, weight.grad, prediction.data, prediction.noise))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_flow_ignores_the_variance_half() -> None:
    batch = batch_at(torch.tensor([0.2, 0.9]))
    output = normal(2, 4, 4, 4).requires_grad_()
    with_half = RectifiedFlow(learn_sigma=True).loss(lambda x, time: output, batch)["loss"]
    without = RectifiedFlow().loss(lambda x, time: output[:, :2], batch)["loss"]
    assert torch.equal(with_half, without)
    (gradient,) = torch.autograd.grad(with_half.sum(), output)
    assert gradient[:, :2].all() and not gradient[:, 2:].any()


@pytest.mark.parametrize("objective", [RectifiedFlow(), FlowMatching(sigma_min=0.1), DDPM()])
def test_prediction_explains_the_noisy_image(objective: Any) -> None:
    """Whatever the model answers, the two ends it implies interpolate back to x."""
    channels = 4 if objective.learn_sigma else 2
    output, x = normal(3, channels, 4, 4).double(), normal(3, 2, 4, 4, seed=1).double()
    for t in (0.1, 0.5, 0.93):
        found = objective.prediction(output, x, t)
        again = objective.interpolant.interpolate(found.data, found.noise, t)
        torch.testing.assert_close(again, x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("objective", [RectifiedFlow(), FlowMatching(), DDPM()])
def test_loss_is_float32_whatever_the_output(objective: Any, dtype: torch.dtype) -> None:
    batch = batch_at(objective.time_from_uniform(torch.tensor([0.0, 0.4, 0.8])))
    channels = 4 if objective.learn_sigma else 2
    output = normal(3, channels, 4, 4).to(dtype)
    low = objective.loss(lambda x, time: output, batch)
    full = objective.loss(lambda x, time: output.float(), batch)
    for name, term in low.items():
        assert term.shape == (3,) and term.dtype == torch.float32
        assert torch.equal(term, full[name])


# DDPM


def test_ddpm_without_learned_variance_is_plain_squared_error() -> None:
    batch = batch_at(torch.tensor([0, 500]))
    terms = DDPM(learn_sigma=False).loss(lambda x, time: torch.zeros_like(x), batch)
    assert set(terms) == {"loss", "mse"}
    torch.testing.assert_close(terms["mse"], batch.noise.square().mean((1, 2, 3)))
    assert torch.equal(terms["loss"], terms["mse"])


def test_ddpm_loss_is_the_sum_of_its_terms() -> None:
    batch = batch_at(torch.tensor([0, 1, 500, 999]))
    output = normal(4, 4, 4, 4)
    terms = DDPM().loss(lambda x, time: output, batch)
    assert torch.equal(terms["loss"], terms["mse"] + terms["vb"])
    assert bool((terms["vb"] > 0).all())


def test_bound_vanishes_where_the_model_is_right() -> None:
    """True noise and the posterior's variance give the true step back, for every timestep > 0."""
    batch = batch_at(torch.tensor([1, 10, 500, 999]))
    output = torch.cat([batch.noise, -torch.ones_like(batch.noise)], dim=1)
    terms = DDPM().loss(lambda x, time: output, batch)
    assert torch.equal(terms["mse"], torch.zeros(4))
    # The means differ by float32 rounding only; the smallest variance, 5e-5, divides its square.
    torch.testing.assert_close(terms["vb"], torch.zeros(4), rtol=0, atol=1e-6)


def test_bound_of_a_wrong_variance_in_closed_form() -> None:
    """KL of two Gaussians with one mean: (r - log r - 1) / 2 with r = posterior / beta."""
    batch = batch_at(torch.tensor([1, 10, 500]))
    output = torch.cat([batch.noise, torch.ones_like(batch.noise)], dim=1)  # fraction 1: beta
    objective = DDPM()
    chain, k = objective.interpolant, batch.time
    ratio = (1 - chain.alphas_cumprod[k - 1]) / (1 - chain.alphas_cumprod[k])
    expected = (ratio - ratio.log() - 1) / 2 / math.log(2)
    vb = objective.loss(lambda x, time: output, batch)["vb"]
    # Float32 keeps 7 digits of numbers near 1 from which this small difference is taken.
    torch.testing.assert_close(vb, expected.float(), rtol=1e-3, atol=1e-6)


def test_bound_teaches_the_variance_only() -> None:
    batch = batch_at(torch.tensor([0, 1, 500]))
    output = normal(3, 4, 4, 4).requires_grad_()
    terms = DDPM().loss(lambda x, time: output, batch)
    (of_bound,) = torch.autograd.grad(terms["vb"].sum(), output, retain_graph=True)
    (of_error,) = torch.autograd.grad(terms["mse"].sum(), output)
    assert not of_bound[:, :2].any() and of_bound[:, 2:].all()
    assert of_error[:, :2].all() and not of_error[:, 2:].any()


def test_gaussian_kl_is_the_textbook_one() -> None:
    mean, other = normal(50).double(), normal(50, seed=1).double()
    log_variance, other_log = normal(50, seed=2).double(), normal(50, seed=3).double()
    expected = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, (log_variance / 2).exp()),
        torch.distributions.Normal(other, (other_log / 2).exp()),
    )
    torch.testing.assert_close(gaussian_kl(mean, log_variance, other, other_log), expected)


@pytest.mark.parametrize(("mean", "log_std"), [(0.0, -1.0), (0.4, -3.0), (0.97, -2.0)])
def test_decoder_spreads_one_over_all_pixel_values(mean: float, log_std: float) -> None:
    pixels = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    fill = torch.ones_like(pixels)
    log_probability = discretised_log_likelihood(pixels, mean * fill, log_std * fill)
    # 256 bins that share their edges; the floor of 1e-12 may add to empty ones.
    assert log_probability.exp().sum().item() == pytest.approx(1, abs=1e-9)


def test_ddpm_prediction_reads_variance_as_a_fraction() -> None:
    output = torch.zeros(2, 4, 4, 4)
    output[:, 2:] = torch.tensor([-1.0, 0.5])[:, None, None, None]
    found = DDPM().prediction(output, normal(2, 2, 4, 4), 0.5)
    assert isinstance(found.variance_fraction, Tensor)
    assert found.variance_fraction[:, 0, 0, 0].tolist() == [0.0, 0.75]
    for fixed, fraction in ((None, 0.0), ("small", 0.0), ("large", 1.0)):
        plain = DDPM(learn_sigma=False, fixed_variance=fixed)
        assert (
            plain.prediction(output[:, :2], normal(2, 2, 4, 4), 0.5).variance_fraction == fraction
        )
