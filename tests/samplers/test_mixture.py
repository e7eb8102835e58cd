"""The exact mixture that samplers are tested with: densities, predictions and distance."""

from __future__ import annotations

import math

import pytest
import torch

from dit_lab.core.discrete_diffusion import DiscreteDiffusion, make_betas
from dit_lab.core.interpolants import Interpolant, Linear, Trigonometric, VariancePreserving
from tests.mixture import Mixture, gaussian, normal, shares, three_spots, two_heaps

ZERO_SNR = DiscreteDiffusion(make_betas("linear", 1000, zero_terminal_snr=True))
PATHS: list[Interpolant] = [Linear(), Linear(0.1), Trigonometric(), VariancePreserving(), ZERO_SNR]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("mixture", [three_spots(), two_heaps(), gaussian()])
def test_predictions_give_x_back_and_are_its_score(mixture: Mixture, path: Interpolant) -> None:
    """Tweedie's formula: the gradient of log p_t, times sigma, is minus the expected noise.

    The gradient by central differences, good to h^2 times the third derivative, some 1e-8.
    """
    h = 1e-5
    for t in (path.t_min, 0.2, 0.7, path.t_max):
        x = normal(50, mixture.shape, seed=0)
        alpha, sigma = shares(path, t)
        found = mixture.predictor(path)(x, t)
        again = alpha * found.data + sigma * found.noise
        torch.testing.assert_close(again, x, rtol=0, atol=1e-12)
        for i in range(mixture.dimension):
            step = torch.zeros(mixture.shape, dtype=torch.float64)
            step[..., i] = h
            up, down = (mixture.marginal_log_prob(x + side * step, path, t) for side in (1, -1))
            score = (up - down) / (2 * h)
            torch.testing.assert_close(
                -sigma * score, found.noise[..., i].flatten(), rtol=1e-6, atol=1e-6
            )


@pytest.mark.parametrize("path", [Linear(), ZERO_SNR])
def test_both_ends_are_exact(path: Interpolant) -> None:
    """Where x is noise alone, the prediction is the data's mean; where it is data, x itself."""
    mixture = three_spots()
    x = normal(20, mixture.shape, seed=1)
    start = mixture.predictor(path)(x, 0.0)
    mean = mixture.moments().mean.reshape(mixture.shape).expand_as(x)
    torch.testing.assert_close(start.data, mean, rtol=0, atol=1e-14)
    torch.testing.assert_close(start.noise, x, rtol=0, atol=1e-14)
    end = mixture.predictor(Linear())(x, 1.0)
    torch.testing.assert_close(end.data, x, rtol=0, atol=1e-14)
    assert not end.noise.any()


def test_prediction_is_the_posterior_mean() -> None:
    """By a sum over a fine grid of data, on a line; the grid's error falls faster than any power
    of its step."""
    mixture, alpha, sigma = two_heaps(), 0.6, 0.5
    data = torch.linspace(-4, 4, 8001, dtype=torch.float64)
    prior = mixture.log_prob(data.reshape(-1, 1, 1, 1))
    for x in (-0.9, 0.1, 1.4):
        weight = (prior - ((x - alpha * data) / sigma).square() / 2).softmax(0)
        found, noise = mixture.ends(torch.full((1, 1, 1, 1), x, dtype=torch.float64), alpha, sigma)
        assert found.item() == pytest.approx((weight @ data).item(), abs=1e-9)
        expected = (weight @ ((x - alpha * data) / sigma)).item()
        assert noise.item() == pytest.approx(expected, abs=1e-9)


def test_densities_sum_to_one() -> None:
    mixture = two_heaps()
    x = torch.linspace(-9, 9, 20_001, dtype=torch.float64).reshape(-1, 1, 1, 1)
    step = 18 / 20_000
    assert mixture.log_prob(x).exp().sum().item() * step == pytest.approx(1, abs=1e-12)
    for t in (0.0, 0.4, 1.0):
        total = mixture.marginal_log_prob(x, Linear(), t).exp().sum().item() * step
        assert total == pytest.approx(1, abs=1e-12)


def test_samples_have_the_moments() -> None:
    """9 numbers, five standard errors: a false alarm in 200,000 seeds."""
    mixture = three_spots()
    found, error = mixture.moments_of(mixture.sample(50_000, seed=0))
    exact = mixture.moments()
    for name in ("mean", "covariance", "weights"):
        gap = (getattr(found, name) - getattr(exact, name)).abs()
        assert bool((gap < 5 * getattr(error, name)).all()), name


def test_images_keep_their_dtype() -> None:
    mixture = three_spots()
    found = mixture.predictor(Linear(), variance_fraction=0.5)(normal(3, (1, 1, 2), 0).float(), 0.3)
    assert found.data.dtype == found.noise.dtype == torch.float32
    assert found.variance_fraction == 0.5


def test_flow_keeps_the_share_of_samples_below_a_point() -> None:
    """On a line the flow keeps order, so that it maps quantiles to quantiles; of a mixture by the
    integrator, of a Gaussian in closed form."""
    at = torch.tensor([0.05, 0.3, 0.5, 0.9], dtype=torch.float64)
    start = torch.special.ndtri(at).reshape(-1, 1, 1, 1)
    end = two_heaps().flow(start, Trigonometric(), 0.0, 1.0).flatten()
    below = sum(
        weight * torch.special.ndtr((end - centre) / std)
        for weight, centre, std in zip([0.35, 0.65], [-0.8, 0.7], [0.25, 0.35], strict=True)
    )
    torch.testing.assert_close(below, at, rtol=0, atol=1e-9)
    plain = gaussian(shape=(1, 1, 1))
    twice = Mixture([0.5, 0.5], torch.cat([plain.means, plain.means]).reshape(2, 1, 1, 1), 0.5)
    torch.testing.assert_close(
        plain.flow(start, Trigonometric(), 0.1, 0.8), twice.flow(start, Trigonometric(), 0.1, 0.8)
    )


def test_distance_of_a_shift_and_of_a_width_in_closed_form() -> None:
    """2-Wasserstein of two Gaussians on a line: sqrt((m - m')^2 + (s - s')^2)."""
    mixture = gaussian(shape=(1, 1, 1))
    quantile = torch.special.ndtri((torch.arange(100_000).double() + 0.5) / 100_000)
    ideal = (0.3 + 0.5 * quantile).reshape(-1, 1, 1, 1)
    assert mixture.distance(ideal) < 1e-6
    moved = (0.4 + 0.3 * quantile).reshape(-1, 1, 1, 1)
    assert mixture.distance(moved) == pytest.approx(math.hypot(0.1, 0.2), rel=1e-4)


def test_distance_sees_weights_widths_and_shifts() -> None:
    """Each of these changes is small; each is ten floors away at 20,000 samples."""
    mixture = three_spots()
    means = mixture.means.reshape(3, 1, 1, 2)
    floor = mixture.floor(20_000)
    assert floor < 0.012
    for other in (
        Mixture([0.35, 0.35, 0.3], means, mixture.stds.tolist()),
        Mixture(mixture.weights.tolist(), means, (1.5 * mixture.stds).tolist()),
        Mixture(mixture.weights.tolist(), means + 0.2, mixture.stds.tolist()),
    ):
        assert mixture.distance(other.sample(20_000, seed=9)) > 10 * floor
