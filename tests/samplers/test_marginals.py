"""Samplers reach the data distribution: stochastic ones by moments, all by distance.

Predictions are those of an exact mixture, so differences are discretisation errors or bugs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from dit_lab.core.discrete_diffusion import DiscreteDiffusion, linear_betas
from dit_lab.core.interpolants import Interpolant, Linear, Trigonometric
from dit_lab.samplers.adaptive import Dopri5
from dit_lab.samplers.ancestral import DDIMSampler, DDPMSampler
from dit_lab.samplers.multistep import DPMSolver, UniPC
from dit_lab.samplers.ode import RK4, Euler, Heun, Midpoint
from dit_lab.samplers.sde import DIFFUSIONS, LAST_STEPS, EulerMaruyama
from tests.mixture import Mixture, normal, three_spots, two_heaps

COUNT = 8000
LINEAR, CHAIN = Linear(), DiscreteDiffusion(linear_betas())
STANDARD_ERRORS = 5


class Draws:
    """Fresh float64 noise for each step, from one stream; float32 draws cost half."""

    def __init__(self, shape: tuple[int, ...], seed: int = 1) -> None:
        self._shape = shape
        self._source = torch.Generator().manual_seed(seed)

    def __call__(self, step: int) -> Tensor:
        return torch.randn(self._shape, generator=self._source).to(torch.float64)


def samples(sampler: Any, mixture: Mixture, path: Interpolant) -> Tensor:
    shape = (COUNT, *mixture.shape)
    return sampler.sample(
        mixture.predictor(path),
        normal(*shape[:1], shape[1:], seed=0),
        interpolant=path,
        draw_noise=Draws(shape),
    )


def assert_moments(mixture: Mixture, x: Tensor, bias: float) -> None:
    """Mean, covariance and weights of the components, each within 5 standard errors and `bias`.

    9 numbers on the plane: noise alone fails one run in 200,000.
    """
    found, error = mixture.moments_of(x)
    exact = mixture.moments()
    for name in ("mean", "covariance", "weights"):
        gap = (getattr(found, name) - getattr(exact, name)).abs()
        allowed = STANDARD_ERRORS * getattr(error, name) + bias
        assert bool((gap < allowed).all()), (name, gap, allowed)


@pytest.mark.parametrize("diffusion", DIFFUSIONS)
def test_every_diffusion_has_the_flows_marginals(diffusion: str) -> None:
    """The bias is some parts in 1,000 steps. The last step is as long as the others: it takes the
    SDE's drift without its noise, and a stretch of 0.04 at the constant rate would take two thirds
    of a component's width. 0.005 is allowed for both."""
    mixture = two_heaps()
    sampler = EulerMaruyama(steps=1000, diffusion=diffusion, last_step_size=1e-3)
    x = samples(sampler, mixture, LINEAR)
    assert_moments(mixture, x, bias=0.005)


@pytest.mark.parametrize("last_step", LAST_STEPS)
def test_every_last_step_has_the_flows_marginals(last_step: str) -> None:
    """Over the default 0.04 a step without noise takes some 0.04^2 of variance."""
    mixture = two_heaps()
    x = samples(EulerMaruyama(steps=1000, last_step=last_step), mixture, LINEAR)
    assert_moments(mixture, x, bias=0.005)


@pytest.mark.parametrize(
    ("sampler", "mixture", "path"),
    [
        (DDPMSampler(steps=1000), three_spots(), CHAIN),
        (DDIMSampler(steps=1000, eta=1.0, spacing="even"), two_heaps(), CHAIN),
        (EulerMaruyama(steps=1000, diffusion="sbdm", last_step_size=1e-3), two_heaps(), CHAIN),
        (DPMSolver(steps=200, solver="sde"), three_spots(), LINEAR),
        (DPMSolver(steps=200, solver="sde"), two_heaps(), Trigonometric()),
        (DPMSolver(steps=200, solver="sde"), two_heaps(), CHAIN),
    ],
)
def test_other_stochastic_samplers_have_the_moments(
    sampler: Any, mixture: Mixture, path: Interpolant
) -> None:
    """The chain starts with 0.6 % of the data where the sampler starts with none; that and the
    steps: 0.01."""
    assert_moments(mixture, samples(sampler, mixture, path), bias=0.01)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_too_much_or_too_little_noise_is_seen(factor: float) -> None:
    """What the tests above would say of draws of another size: a sampler's likeliest mistake."""
    mixture = two_heaps()
    fresh = Draws((COUNT, 1, 1, 1))
    x = EulerMaruyama(steps=100).sample(
        mixture.predictor(LINEAR),
        fresh(-1),
        interpolant=LINEAR,
        draw_noise=lambda step: factor * fresh(step),
    )
    with pytest.raises(AssertionError):
        assert_moments(mixture, x, bias=0.01)


# Convergence in distribution


def quantiles(count: int) -> Tensor:
    """The normal distribution's, as noise without chance."""
    return torch.special.ndtri((torch.arange(count).double() + 0.5) / count).reshape(-1, 1, 1, 1)


def distances(
    make: Callable[..., Any], counts: tuple[int, ...], path: Interpolant, images: int
) -> list[float]:
    mixture = two_heaps()
    fresh = Draws((images, 1, 1, 1))
    found = []
    for steps in counts:
        x = make(steps=steps).sample(
            mixture.predictor(path), quantiles(images), interpolant=path, draw_noise=fresh
        )
        found.append(mixture.distance(x))
    return found


DETERMINISTIC: list[tuple[Callable[..., Any], tuple[int, ...]]] = [
    (Euler, (10, 50, 250)),
    (DDIMSampler, (10, 50, 250)),
    (Midpoint, (5, 25, 125)),
    (Heun, (5, 25, 125)),
    (RK4, (3, 12, 48)),
    (DPMSolver, (10, 50, 250)),
    (UniPC, (10, 50, 250)),
    (lambda steps: Dopri5(rtol=1 / steps, atol=1 / steps), (30, 1000, 100_000)),
]


@pytest.mark.parametrize("path", [LINEAR, Trigonometric()])
@pytest.mark.parametrize(("make", "counts"), DETERMINISTIC)
def test_deterministic_samplers_come_nearer_with_every_refinement(
    make: Callable[..., Any], counts: tuple[int, ...], path: Interpolant
) -> None:
    """From noise without chance there is no floor but the tails that 4,000 quantiles cut off and
    the 0.1 % of data that the multistep solvers' first time has: 0.004."""
    found = distances(make, counts, path, images=4000)
    assert found[0] > found[1] > found[2] or max(found[1:]) < 1e-3
    assert found[0] > 3 * found[2] and found[2] < 0.004


STOCHASTIC: list[tuple[Callable[..., Any], Interpolant]] = [
    (lambda steps: EulerMaruyama(steps=steps, last_step_size=0.5 / steps), LINEAR),
    (lambda steps: DDIMSampler(steps=steps, eta=1.0, spacing="even"), CHAIN),
    (lambda steps: DDIMSampler(steps=steps, eta=1.0), Trigonometric()),
    (lambda steps: DDPMSampler(steps=steps), CHAIN),
    (lambda steps: DPMSolver(steps=steps, solver="sde"), LINEAR),
]


@pytest.mark.parametrize(("make", "path"), STOCHASTIC)
def test_stochastic_samplers_come_nearer_until_chance_remains(
    make: Callable[..., Any], path: Interpolant
) -> None:
    """Down to three times the distance of as many exact samples."""
    found = distances(make, (5, 20, 200), path, images=COUNT)
    assert found[0] > found[1] > found[2]
    assert found[2] < 3 * two_heaps().floor(COUNT)
    assert math.isfinite(sum(found))
