"""Training gradients: averages over random batches against integrals of the definition.

A model of a few parameters is trained on Gaussian data of one pixel. The mean gradient over images
drawn as in training must equal the integral of the loss, written here from its definition, over
data, noise and time: Gauss-Hermite over data and noise (exact, because the losses are polynomials
in them), and all timesteps or Gauss-Legendre over time. The standard error is also computed by the
integral, so that heavy tails are accounted for. The tolerance is 5 standard errors, which chance
exceeds once in two million.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dit_lab.core import rng
from dit_lab.core.types import Batch
from dit_lab.objectives.ddpm import DDPM
from dit_lab.objectives.flow_matching import FlowMatching
from dit_lab.objectives.rectified_flow import RectifiedFlow
from dit_lab.training.batches import Draws

MEAN, STD = 0.3, 0.5
IMAGES, BATCHES = 8192, 4
WEIGHTS = (0.4, -0.3, 0.2)
VARIANCE = (0.1, 0.3)
LOGIT_MEAN, LOGIT_STD = 0.2, 0.6
PATHS = ("linear", "trigonometric", "vp")
LEVELS = torch.tensor([-77.0, 26.0, 64.0], dtype=torch.float64) / 127.5
"""Pixels of the hybrid loss: its decoder sees 8-bit bins."""


def model(x: Tensor, share: Tensor, weights: Tensor) -> Tensor:
    """weights[0] x + weights[1] * time + weights[2], time as a share of its span."""
    return weights[0] * x + weights[1] * share + weights[2]


@cache
def batches(channels: int = 1, levels: bool = False) -> tuple[Batch, ...]:
    """As training draws them, but for the time, which stays the uniform number behind it."""
    shape = (channels, 1, 1)
    draws = Draws(
        seed=3, purpose="train", latent_shape=shape, time_from_uniform=lambda u: u,
        label_drop_prob=0.0,
    )  # fmt: skip
    found = []
    for number in range(BATCHES):
        at = torch.arange(number * IMAGES, (number + 1) * IMAGES)
        if levels:
            which = (3 * rng.uniform(3, "levels", at)).long()
            data = LEVELS[which].float().reshape(-1, *shape)
        else:
            data = MEAN + STD * rng.normal(3, "data", at, shape)
        found.append(draws.batch(data, torch.zeros(IMAGES, dtype=torch.int64), at).batch)
    return tuple(found)


def drawn_gradient(objective: Any, span: float, **which: Any) -> Tensor:
    """The mean gradient over all batches, in float64."""
    total = torch.zeros(len(WEIGHTS), dtype=torch.float64)
    for batch in batches(**which):
        timed = replace(batch, time=objective.time_from_uniform(batch.time))
        weights = torch.tensor(WEIGHTS, requires_grad=True)

        def call(x: Tensor, time: Tensor, weights: Tensor = weights) -> Tensor:
            return model(x, time.reshape(-1, 1, 1, 1) / span, weights)

        objective.loss(call, timed)["loss"].mean().backward()
        total += weights.grad.double()
    return total / BATCHES


@dataclass
class Grid:
    """Nodes of an integral over data, noise and time: all (n,), float64, weights of sum 1."""

    data: Tensor
    noise: Tensor
    time: Tensor
    weight: Tensor


def grid(time: Tensor, density: Tensor, *, pixels: Any = None, nodes: int = 6) -> Grid:
    """Every combination; `density` (n,) are the weights of `time`."""
    z, weight = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(nodes))
    weight = weight / weight.sum()
    data, of_data = (MEAN + STD * z, weight) if pixels is None else pixels
    places = torch.cartesian_prod(
        torch.arange(len(data)), torch.arange(nodes), torch.arange(len(time))
    ).T
    return Grid(
        data=data[places[0]],
        noise=z[places[1]],
        time=time[places[2]],
        weight=of_data[places[0]] * weight[places[1]] * density[places[2]],
    )


@cache
def legendre(low: float, high: float, count: int = 300) -> tuple[Tensor, Tensor]:
    """Nodes and weights of a mean over [low, high]."""
    x, weight = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(count))
    return low + (high - low) * (x + 1) / 2, weight / 2


def assert_unbiased(
    objective: Any, at: Grid, span: float, loss: Callable[[Tensor], Tensor], **which: Any
) -> None:
    """`loss` takes weights (3, n), one set for every node, to the loss at each node, (n,)."""
    weights = torch.tensor(WEIGHTS, dtype=torch.float64)[:, None].repeat(1, len(at.time))
    weights.requires_grad_()
    (each,) = torch.autograd.grad(loss(weights).sum(), weights)  # (3, n)
    expected = each @ at.weight
    deviation = (each.square() @ at.weight - expected.square()).sqrt()
    allowed = 5 * deviation / math.sqrt(IMAGES * BATCHES)
    gap = (drawn_gradient(objective, span, **which) - expected).abs()
    assert bool((gap < allowed).all()), (gap, allowed)
    assert bool((allowed < 0.25 * expected.abs().max()).all())  # the comparison says something


# DDPM


def timesteps() -> tuple[Tensor, Tensor]:
    return torch.arange(1000), torch.full((1000,), 1e-3, dtype=torch.float64)


@pytest.mark.parametrize("gamma", [None, 5.0])
@pytest.mark.parametrize("kind", ["noise", "data", "v"])
def test_ddpm(kind: str, gamma: float | None) -> None:
    """Over all 1,000 timesteps; with gamma the error counts as min(SNR, gamma) times the data's."""
    objective = DDPM(prediction=kind, learn_sigma=False, min_snr_gamma=gamma)
    at = grid(*timesteps())
    bar = objective.interpolant.alphas_cumprod[at.time]
    alpha, sigma = bar.sqrt(), (1 - bar).sqrt()
    x = alpha * at.data + sigma * at.noise

    def loss(weights: Tensor) -> Tensor:
        said = model(x, at.time / 1000, weights)
        target = {"noise": at.noise, "data": at.data, "v": alpha * at.noise - sigma * at.data}
        if gamma is None:
            return (said - target[kind]).square()
        data = {
            "noise": (x - sigma * said) / alpha, "data": said, "v": alpha * x - sigma * said
        }[kind]  # fmt: skip
        return (bar / (1 - bar)).clamp(max=gamma) * (data - at.data).square()

    assert_unbiased(objective, at, 1000.0, loss)


@pytest.mark.parametrize("kind", ["noise", "v"])
def test_ddpm_with_learned_variance(kind: str) -> None:
    """The hybrid loss, on three 8-bit pixel values, which its decoder needs.

    Of the weights that mean and variance share, the bound teaches the variance's part. That it
    leaves the mean alone is tested exactly with the objectives; here its share would be too small.
    """
    objective = DDPM(prediction=kind)
    chain = objective.interpolant
    third = torch.full((3,), 1 / 3, dtype=torch.float64)
    at = grid(*timesteps(), pixels=(LEVELS.float().double(), third), nodes=24)
    bar, before = chain.alphas_cumprod[at.time], chain.alphas_cumprod[(at.time - 1).clamp(min=0)]
    before = torch.where(at.time == 0, 1.0, before)
    beta = chain.betas[at.time]
    alpha, sigma = bar.sqrt(), (1 - bar).sqrt()
    x = alpha * at.data + sigma * at.noise
    smallest = beta * (1 - before) / (1 - bar)
    second = chain.betas[1] * chain.betas[0] / (1 - chain.alphas_cumprod[1])
    floor = torch.where(at.time == 0, second, smallest)  # at 0 that of timestep 1

    def posterior_mean(data: Tensor) -> Tensor:
        back = (1 - beta).sqrt() * (1 - before) * x
        return (beta * before.sqrt() * data + back) / (1 - bar)

    def loss(weights: Tensor) -> Tensor:
        said = model(x, at.time / 1000, weights)
        target = at.noise if kind == "noise" else alpha * at.noise - sigma * at.data
        seen = said.detach()
        data = (x - sigma * seen) / alpha if kind == "noise" else alpha * x - sigma * seen
        fraction = (said_variance(x, at.time / 1000, weights) + 1) / 2
        log_variance = fraction * beta.log() + (1 - fraction) * floor.log()
        gap = (posterior_mean(at.data) - posterior_mean(data)).square()
        divergence = (
            log_variance - floor.log() + (floor + gap) / log_variance.exp() - 1
        ) / 2  # of two Gaussians
        edges = [(at.data + side / 255 - posterior_mean(data)) for side in (1, -1)]
        top, bottom = (_cdf(edge / (log_variance / 2).exp()) for edge in edges)
        likelihood = (top - bottom).clamp(min=1e-12).log()
        bound = torch.where(at.time == 0, -likelihood, divergence) / math.log(2)
        return (said - target).square() + bound

    assert_learned(objective, at, loss)


def said_variance(x: Tensor, share: Tensor, weights: Tensor) -> Tensor:
    """The second channel, from the same weights."""
    return weights[1] * x * VARIANCE[0] + weights[2] * share + VARIANCE[1] * weights[0]


def _cdf(x: Tensor) -> Tensor:
    """Of the normal distribution, by the tanh that the original uses."""
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def assert_learned(objective: DDPM, at: Grid, loss: Callable[[Tensor], Tensor]) -> None:
    """`assert_unbiased` for a model of two channels."""

    class Both:
        """The objective, with the second channel added to what the model says."""

        time_from_uniform = staticmethod(objective.time_from_uniform)

        @staticmethod
        def loss(call: Callable[..., Tensor], batch: Batch) -> dict[str, Tensor]:
            weights = call.__defaults__[0]

            def both(x: Tensor, time: Tensor) -> Tensor:
                share = time.reshape(-1, 1, 1, 1) / 1000
                return torch.cat([call(x, time), said_variance(x, share, weights)], dim=1)

            return objective.loss(both, batch)

    assert_unbiased(Both(), at, 1000.0, loss, levels=True)


# Flows


def times(sampling: str, shift: float, low: float, high: float) -> tuple[Tensor, Tensor]:
    """Nodes and weights of flow time, from each distribution's density."""
    t, weight = legendre(0.0, 1.0)
    if sampling == "logit_normal":
        z = 18 * (t - 0.5)  # nine standard deviations to either side
        weight = weight * torch.exp(-z.square() / 2)
        weight, t = weight / weight.sum(), torch.sigmoid(LOGIT_MEAN + LOGIT_STD * z)
    if sampling == "cosmap":
        weight = weight * 2 / (math.pi - 2 * math.pi * t + 2 * math.pi * t.square())
    noise = 1 - t
    t = 1 - shift * noise / (1 + (shift - 1) * noise)
    return low + (high - low) * t, weight


@pytest.mark.parametrize("sampling", ["uniform", "logit_normal", "cosmap"])
@pytest.mark.parametrize("shift", [1.0, 3.0, "auto"])
def test_rectified_flow(sampling: str, shift: float | str) -> None:
    objective = RectifiedFlow(
        time_sampling=sampling, logit_mean=LOGIT_MEAN, logit_std=LOGIT_STD, time_shift=shift,
        latent_shape=(4, 16, 16),
    )  # fmt: skip
    number = 0.5 if shift == "auto" else float(shift)
    at = grid(*times(sampling, number, 0.0, 1.0))
    x = at.time * at.data + (1 - at.time) * at.noise

    def loss(weights: Tensor) -> Tensor:
        return (model(x, at.time, weights) - (at.data - at.noise)).square()

    assert_unbiased(objective, at, 1000.0, loss)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", ["velocity", "noise", "data", "score"])
@pytest.mark.parametrize("weighting", ["none", "velocity", "likelihood"])
def test_flow_matching(path: str, kind: str, weighting: str) -> None:
    """Each weighting as the error that it is named for, after conversion.

    Some weights grow like t^-2 or (1 - t)^-2 up to the edges, where a few images of uniform times
    would decide; weighted losses are compared on logit-normal times.
    """
    sampling = "uniform" if weighting == "none" else "logit_normal"
    objective = FlowMatching(
        path=path, prediction=kind, weighting=weighting, time_sampling=sampling,
        logit_mean=LOGIT_MEAN, logit_std=LOGIT_STD,
    )  # fmt: skip
    interpolant = objective.interpolant
    at = grid(*times(sampling, 1.0, interpolant.t_min, interpolant.t_max))
    alpha, sigma = interpolant.alpha(at.time), interpolant.sigma(at.time)
    rate, decay = interpolant.alpha_dot(at.time), interpolant.sigma_dot(at.time)
    x = alpha * at.data + sigma * at.noise
    velocity = rate * at.data + decay * at.noise

    def loss(weights: Tensor) -> Tensor:
        said = model(x, at.time, weights)
        if kind == "velocity":
            noise = (rate * x - alpha * said) / (rate * sigma - decay * alpha)
        elif kind == "data":
            noise = (x - alpha * said) / sigma if weighting != "none" else at.noise
        else:
            noise = -sigma * said if kind == "score" else said
        error = noise - at.noise
        if weighting == "likelihood":
            drift = rate / alpha  # g^2 = 2 sigma (sigma drift - sigma_dot)
            return sigma * (sigma * drift - decay) * (error / sigma).square()
        if weighting == "velocity":
            data = (x - sigma * noise) / alpha if kind != "velocity" else None
            return (said - velocity if data is None else
                    rate * data + decay * noise - velocity).square()  # fmt: skip
        target = {"velocity": velocity, "data": at.data}
        return (said - target[kind] if kind in target else error).square()

    assert_unbiased(objective, at, 1000.0, loss)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", ["velocity", "noise", "data", "score"])
def test_flow_matching_by_snr(path: str, kind: str) -> None:
    """min(SNR, gamma) times the squared error of the data."""
    objective = FlowMatching(path=path, prediction=kind, min_snr_gamma=2.0)
    interpolant = objective.interpolant
    at = grid(*times("uniform", 1.0, interpolant.t_min, interpolant.t_max))
    alpha, sigma = interpolant.alpha(at.time), interpolant.sigma(at.time)
    rate, decay = interpolant.alpha_dot(at.time), interpolant.sigma_dot(at.time)
    x = alpha * at.data + sigma * at.noise

    def loss(weights: Tensor) -> Tensor:
        said = model(x, at.time, weights)
        data = {
            "velocity": (sigma * said - decay * x) / (rate * sigma - decay * alpha),
            "noise": (x - sigma * said) / alpha,
            "data": said,
            "score": (x + sigma.square() * said) / alpha,
        }[kind]
        return (alpha / sigma).square().clamp(max=2.0) * (data - at.data).square()

    assert_unbiased(objective, at, 1000.0, loss)


@pytest.mark.parametrize("name", ["ddpm", "rectified_flow", "flow_matching"])
def test_huber_losses(name: str) -> None:
    """Of errors of the noise, the velocity and the data. More nodes: it is no polynomial."""
    chain = name == "ddpm"
    objective: Any = {
        "ddpm": DDPM(learn_sigma=False, loss="huber", huber_c=1.0),
        "rectified_flow": RectifiedFlow(loss="huber", huber_c=1.0),
        "flow_matching": FlowMatching(prediction="data", loss="huber", huber_c=1.0),
    }[name]
    path = objective.interpolant
    at = grid(*(timesteps() if chain else times("uniform", 1.0, path.t_min, path.t_max)), nodes=24)
    if chain:
        bar = path.alphas_cumprod[at.time]
        alpha, sigma = bar.sqrt(), (1 - bar).sqrt()
    else:
        alpha, sigma = path.alpha(at.time), path.sigma(at.time)
    x = alpha * at.data + sigma * at.noise
    target = {"ddpm": at.noise, "rectified_flow": at.data - at.noise, "flow_matching": at.data}

    def loss(weights: Tensor) -> Tensor:
        error = model(x, at.time / 1000 if chain else at.time, weights) - target[name]
        return 2 * ((error.square() + 1).sqrt() - 1)

    assert_unbiased(objective, at, 1000.0, loss)


def test_direction_term() -> None:
    """With two channels the integral is over five numbers, so it is estimated by independent draws.

    Their standard error is added.
    """
    objective = RectifiedFlow(direction_weight=0.7)
    count = 200_000
    source = torch.Generator().manual_seed(11)
    data, noise = (torch.randn(count, 2, generator=source, dtype=torch.float64) for _ in range(2))
    data = MEAN + STD * data
    time = torch.rand(count, 1, generator=source, dtype=torch.float64)
    x, target = time * data + (1 - time) * noise, data - noise
    weights = torch.tensor(WEIGHTS, dtype=torch.float64)[:, None, None].repeat(1, count, 1)
    weights.requires_grad_()
    said = model(x, time, weights)
    cosine = (said * target).sum(1) / (said.norm(dim=1) * target.norm(dim=1))
    loss = (said - target).square().mean(1) + 0.7 * (1 - cosine)
    (each,) = torch.autograd.grad(loss.sum(), weights)  # (3, count, 1)
    expected, deviation = each.mean((1, 2)), each.std((1, 2))
    allowed = 5 * deviation * math.sqrt(1 / count + 1 / (IMAGES * BATCHES))
    gap = (drawn_gradient(objective, 1000.0, channels=2) - expected).abs()
    assert bool((gap < allowed).all()), (gap, allowed)


def test_a_wrong_weight_is_seen() -> None:
    """The integral of the plain error is not that of the weighted one."""
    at = grid(*timesteps())
    bar = DDPM().interpolant.alphas_cumprod[at.time]
    x = bar.sqrt() * at.data + (1 - bar).sqrt() * at.noise

    def plain(weights: Tensor) -> Tensor:
        return (model(x, at.time / 1000, weights) - at.noise).square()

    with pytest.raises(AssertionError):
        assert_unbiased(DDPM(learn_sigma=False, min_snr_gamma=5.0), at, 1000.0, plain)
    with pytest.raises(AssertionError):
        assert_unbiased(DDPM(prediction="data", learn_sigma=False), at, 1000.0, plain)
