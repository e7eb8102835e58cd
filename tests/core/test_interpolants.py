"""Interpolants: derivatives, conversions, and the two views of the discrete chain."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dit_lab.core.discrete_diffusion import SCHEDULES, DiscreteDiffusion, linear_betas, make_betas
from dit_lab.core.errors import RequestError
from dit_lab.core.interpolants import (
    PREDICTIONS,
    Interpolant,
    Linear,
    Trigonometric,
    VariancePreserving,
    shift_time,
)

CHAIN = DiscreteDiffusion(linear_betas())
ZERO_SNR = DiscreteDiffusion(make_betas("scaled_linear", 1000, zero_terminal_snr=True))
ALL: list[Interpolant] = [
    Linear(),
    Linear(1e-4),
    Trigonometric(),
    VariancePreserving(),
    CHAIN,
    DiscreteDiffusion(linear_betas(100)),
    ZERO_SNR,
]


def images(seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(5, 2, 3, 4, generator=draw, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("interpolant", ALL)
def test_derivatives_match_differences(interpolant: Interpolant) -> None:
    """Central differences, off the timesteps, where the chain's slope jumps."""
    t = torch.tensor([0.0501, 0.2003, 0.5004, 0.8002, 0.9777], dtype=torch.float64)
    h = 1e-6
    for share, slope in (("alpha", "alpha_dot"), ("sigma", "sigma_dot")):
        function = getattr(interpolant, share)
        difference = (function(t + h) - function(t - h)) / (2 * h)
        # error of the difference: h^2 times the third derivative, and rounding 1e-16 / h
        torch.testing.assert_close(getattr(interpolant, slope)(t), difference, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("interpolant", ALL)
@pytest.mark.parametrize("kind", PREDICTIONS)
@pytest.mark.parametrize("t", [0.003, 0.35, 0.5, 0.96])
def test_conversions_return(interpolant: Interpolant, kind: str, t: float) -> None:
    """From both ends to x and a prediction of any kind, and back, for floats and tensors."""
    data, noise = images(0), images(1)
    for time in (t, torch.full((5,), t, dtype=torch.float64)):
        x = interpolant.interpolate(data, noise, time)
        target = interpolant.target(kind, data, noise, time)
        for ours, theirs in zip(
            interpolant.ends(kind, target, x, time), (data, noise), strict=True
        ):
            # dividing by alpha, 0.0003 at the least (zero terminal SNR), costs four of 16 digits
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)


@pytest.mark.parametrize("interpolant", ALL)
@pytest.mark.parametrize("kind", PREDICTIONS)
def test_images_keep_their_dtype(interpolant: Interpolant, kind: str) -> None:
    data, noise = images(0, torch.float32), images(1, torch.float32)
    for time in (0.4, torch.full((5,), 0.4), torch.full((5,), 0.4, dtype=torch.float64)):
        x = interpolant.interpolate(data, noise, time)
        ends = interpolant.ends(kind, interpolant.target(kind, data, noise, time), x, time)
        assert {x.dtype, *(end.dtype for end in ends)} == {torch.float32}


@pytest.mark.parametrize("interpolant", [Trigonometric(), VariancePreserving(), CHAIN, ZERO_SNR])
def test_variance_preserving_paths_are_that(interpolant: Interpolant) -> None:
    t = torch.linspace(0, 1, 777, dtype=torch.float64)
    total = interpolant.alpha(t) ** 2 + interpolant.sigma(t) ** 2
    torch.testing.assert_close(total, torch.ones_like(total))


def test_vp_path_is_the_integral_of_its_betas() -> None:
    """alpha at t = 0 is exp(-(0.1 + 20) / 4), and a chain of as many betas comes near it."""
    path, t = VariancePreserving(), torch.tensor([0.0, 0.25, 0.5, 0.75], dtype=torch.float64)
    assert path.alpha(t)[0].item() == pytest.approx(math.exp(-(0.1 + 20) / 4))
    steps = torch.linspace(0.1, 20, 100_000, dtype=torch.float64) / 100_000
    left = torch.cumprod(1 - steps, 0)[(100_000 * (1 - t)).long() - 1]
    torch.testing.assert_close(path.alpha(t) ** 2, left, rtol=1e-3, atol=0)
    assert path.final_sigma() == pytest.approx(0.01, rel=0.1)


@pytest.mark.parametrize("interpolant", ALL)
def test_diffusion_is_the_forward_process(interpolant: Interpolant) -> None:
    """The linear SDE dx = f x ds + g dW (s = 1 - t) keeps the variances of both ends of the path.

    d sigma^2 / ds = 2 f sigma^2 + g^2 with f = d log alpha / ds.
    """
    t, h = torch.tensor([0.1003, 0.4009, 0.9002], dtype=torch.float64), 1e-6
    slope = (interpolant.sigma(t - h) ** 2 - interpolant.sigma(t + h) ** 2) / (2 * h)
    rate = (interpolant.alpha(t - h).log() - interpolant.alpha(t + h).log()) / (2 * h)
    expected = (slope - 2 * rate * interpolant.sigma(t) ** 2) / 2
    torch.testing.assert_close(interpolant.diffusion(t), expected, rtol=1e-5, atol=1e-8)


def test_shifted_times() -> None:
    """Esser et al. 2024, eq. 23, on the noise's share; 1 is no shift, and shifts compose."""
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    noise = 1 - t
    torch.testing.assert_close(1 - shift_time(t, 3.0), 3 * noise / (1 + 2 * noise))
    torch.testing.assert_close(shift_time(t, 1.0), t)
    torch.testing.assert_close(shift_time(shift_time(t, 3.0), 2.0), shift_time(t, 6.0))


def test_time_is_per_image() -> None:
    data, noise = images(0), images(1)
    t = torch.linspace(0, 1, 5, dtype=torch.float64)
    x = Linear().interpolate(data, noise, t)
    for i in range(5):
        torch.testing.assert_close(x[i], t[i] * data[i] + (1 - t[i]) * noise[i])


def test_linear_ends_exactly() -> None:
    data, noise = images(0), images(1)
    assert torch.equal(Linear().interpolate(data, noise, 0.0), noise)
    assert torch.equal(Linear().interpolate(data, noise, 1.0), data)
    assert Linear().final_sigma() == 0
    assert Linear(1e-4).final_sigma() == pytest.approx(1e-4)


@pytest.mark.parametrize("interpolant", ALL)
def test_score_of_one_point_is_that_of_its_gaussian(interpolant: Interpolant) -> None:
    data, noise = images(0), images(1)
    t = torch.tensor(0.3, dtype=torch.float64)
    x = interpolant.interpolate(data, noise, 0.3).requires_grad_()
    gaussian = torch.distributions.Normal(interpolant.alpha(t) * data, interpolant.sigma(t))
    (gradient,) = torch.autograd.grad(gaussian.log_prob(x).sum(), x)
    ours = interpolant.target("score", data, noise, 0.3)
    torch.testing.assert_close(ours, gradient)


# The discrete chain


def test_linear_betas_are_the_published_ones() -> None:
    betas = linear_betas()
    assert len(betas) == 1000
    assert betas[0].item() == pytest.approx(1e-4)
    assert betas[-1].item() == pytest.approx(0.02)
    assert torch.cumprod(1 - betas, 0)[-1].item() == pytest.approx(4.036e-5, rel=1e-4)


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(RequestError, match="use 21 or more"):
        linear_betas(20)
    with pytest.raises(RequestError, match="use 13 or more"):
        make_betas("scaled_linear", 12)
    with pytest.raises(RequestError, match="unknown 'quadratic'; use linear, scaled_linear"):
        make_betas("quadratic", 100)
    with pytest.raises(RequestError, match="all above 0 and below 1"):
        DiscreteDiffusion(torch.tensor([1.0, 0.1]))
    with pytest.raises(RequestError, match=r"not in \[0, 1\)"):
        Linear(1.0)


def test_continuous_reading_passes_through_every_timestep() -> None:
    t = torch.tensor([CHAIN.flow_time(k) for k in range(1000)], dtype=torch.float64)
    alpha, sigma = CHAIN.alpha(t), CHAIN.sigma(t)
    torch.testing.assert_close(alpha**2, CHAIN.alphas_cumprod, rtol=1e-12, atol=0)
    between = torch.linspace(0, 1, 777, dtype=torch.float64)
    total = CHAIN.alpha(between) ** 2 + CHAIN.sigma(between) ** 2
    torch.testing.assert_close(total, torch.ones_like(total))  # variance preserving
    assert CHAIN.flow_time(0) == CHAIN.t_max and CHAIN.flow_time(999) == CHAIN.t_min
    assert sigma[0] == pytest.approx(CHAIN.final_sigma())


def test_slope_at_a_timestep_is_the_mean_of_its_sides() -> None:
    near = 1e-7
    for k in (1, 20, 500):
        at, *sides = (
            CHAIN.alpha_dot(torch.tensor(CHAIN.flow_time(k + d), dtype=torch.float64))
            for d in (0, -near * 100, near * 100)
        )
        assert at.item() == pytest.approx(sum(s.item() for s in sides) / 2, rel=1e-4)
        assert sides[0] != pytest.approx(sides[1].item(), rel=1e-4)


def test_posterior_is_bayes_rule() -> None:
    """q(x_{k-1} | x_k, data) from the two Gaussians that it is made of, at every k > 0."""
    k = torch.arange(1, 1000)
    beta, before = CHAIN.betas[1:], CHAIN.alphas_cumprod[:-1]
    precision = (1 - beta) / beta + 1 / (1 - before)  # of x_k given x_{k-1}; of x_{k-1} given data
    data, x = torch.tensor(0.7, dtype=torch.float64), torch.tensor(-1.3, dtype=torch.float64)
    mean = ((1 - beta).sqrt() / beta * x + before.sqrt() / (1 - before) * data) / precision
    column = torch.ones(999, 1, 1, 1, dtype=torch.float64)
    ours = CHAIN.posterior_mean(data * column, x * column, k).flatten()
    torch.testing.assert_close(ours, mean, rtol=1e-9, atol=0)
    variance = CHAIN.log_variance(0.0, column, k).flatten().exp()
    torch.testing.assert_close(variance, 1 / precision, rtol=1e-9, atol=0)


def test_last_step_ends_in_data() -> None:
    data, x = images(0), images(1)
    torch.testing.assert_close(CHAIN.posterior_mean(data, x, 0), data, rtol=1e-12, atol=1e-12)
    assert torch.equal(CHAIN.log_variance(0.0, x, 0), CHAIN.log_variance(0.0, x, 1))


def test_learned_variance_lies_between_posterior_and_beta() -> None:
    x = images(0)
    k = torch.tensor([0, 1, 10, 500, 999])
    low, high = (CHAIN.log_variance(torch.full_like(x, f), x, k) for f in (0.0, 1.0))
    torch.testing.assert_close(low, CHAIN.log_variance(0.0, x, k).expand_as(x))
    torch.testing.assert_close(high[:, 0, 0, 0], CHAIN.betas[k].log())
    half = CHAIN.log_variance(torch.full_like(x, 0.5), x, k)
    torch.testing.assert_close(half, (low + high) / 2)


def test_int_and_tensor_timesteps_agree_and_keep_dtype() -> None:
    x = images(0, torch.float32)
    for k in (0, 333, 999):
        many = torch.full((5,), k)
        for ours, theirs in (
            (CHAIN.posterior_mean(x, 2 * x, k), CHAIN.posterior_mean(x, 2 * x, many)),
            (CHAIN.log_variance(x, x, k), CHAIN.log_variance(x, x, many)),
            (CHAIN.shares_at(k, x)[0] * x, CHAIN.shares_at(many, x)[0] * x),
        ):
            assert ours.dtype == theirs.dtype == torch.float32
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_respaced_chain_keeps_the_noise_levels() -> None:
    timesteps = [0, 7, 300, 998]
    short = CHAIN.respaced(timesteps)
    torch.testing.assert_close(
        short.alphas_cumprod, CHAIN.alphas_cumprod[timesteps], rtol=1e-12, atol=0
    )
    full = CHAIN.respaced(range(1000))
    torch.testing.assert_close(full.betas, CHAIN.betas, rtol=1e-10, atol=0)


# Schedules


def test_schedules_against_diffusers() -> None:
    """Its float32 tables: betas to float32's last digits, the zero-SNR ones by their alpha_bar."""
    from diffusers import DDPMScheduler

    theirs = {"linear": "linear", "scaled_linear": "scaled_linear", "cosine": "squaredcos_cap_v2"}
    ends = {"scaled_linear": {"beta_start": 0.00085, "beta_end": 0.012}}
    for name in SCHEDULES:
        for zero in (False, True):
            scheduler = DDPMScheduler(
                beta_schedule=theirs[name], rescale_betas_zero_snr=zero, **ends.get(name, {})
            )
            ours = DiscreteDiffusion(make_betas(name, 1000, zero_terminal_snr=zero))
            torch.testing.assert_close(
                ours.alphas_cumprod.float(), scheduler.alphas_cumprod, rtol=2e-4, atol=1e-7
            )


def test_zero_terminal_snr_is_exact_where_it_is_used() -> None:
    """At the last timestep x is pure noise, in both views, and v is minus the data."""
    data, noise = images(0), images(1)
    assert ZERO_SNR.alphas_cumprod[-1] == 0
    for shares in (ZERO_SNR.shares_at(999, data), ZERO_SNR.shares(0.0, data)):
        assert torch.equal(shares.mix(data, noise), noise)
        assert torch.equal(shares.ends("v", -data, noise)[0], data)
    step_back = ZERO_SNR.posterior_mean(data, 5 * noise, 999)
    torch.testing.assert_close(step_back, ZERO_SNR.alphas_cumprod[-2].sqrt() * data)
    first = make_betas("scaled_linear", 1000)[0]
    torch.testing.assert_close(ZERO_SNR.betas[0], first)  # the first timestep keeps its noise


def test_chains_of_other_lengths_end_in_about_as_much_noise() -> None:
    for name in SCHEDULES:
        ends = [make_betas(name, count) for count in (100, 1000)]
        left = [torch.cumprod(1 - betas, 0)[-1].log().item() for betas in ends]
        # cosine ends in a clamped beta of 0.999 for any length
        assert left[0] == pytest.approx(left[1], rel=0.6 if name == "cosine" else 0.2)
