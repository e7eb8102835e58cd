"""Path deviation of straight paths, of paths with known curvature, and of a curved flow."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from dit_lab.core.interpolants import Interpolant, Linear, Trigonometric
from dit_lab.core.types import Predict, Prediction
from dit_lab.evaluation.metrics.straightness import STEPS, path_deviation
from tests.mixture import Mixture, gaussian, normal, three_spots, two_heaps

POINT = torch.tensor([[[0.4, -0.7]]], dtype=torch.float64)


def at_one_point(path: Interpolant) -> Predict:
    """Return the prediction for data that is always POINT; undefined where sigma is 0."""

    def predict(x: Tensor, t: float) -> Prediction:
        data = POINT.expand_as(x)
        _, noise = path.ends("data", data, x, t)
        return Prediction(data=data, noise=noise)

    return predict


def test_paths_to_one_point_are_straight() -> None:
    """The speed is constant, so Euler steps stay on the path up to rounding."""
    noise, path = normal(20, (1, 1, 2), seed=0), Linear()
    for steps in (1, 10, STEPS):
        deviation, length = path_deviation(at_one_point(path), noise, path, steps=steps)
        assert deviation.max() < 1e-24
        torch.testing.assert_close(length, (POINT - noise).square().flatten(1).sum(1))


def test_one_step_is_always_straight() -> None:
    """A single step has one slope, that of the displacement."""
    deviation, length = path_deviation(
        three_spots().predictor(Linear()), normal(20, (1, 1, 2), 0), Linear(), steps=1
    )
    assert deviation.max() < 1e-24 and length.min() > 0


def test_a_quarter_of_a_circle_is_bent_as_much_as_it_is() -> None:
    """The path from z to m has dx/dt = pi/2 (m cos - z sin).

    Its mean square is pi^2/8 (m^2 + z^2) - pi/2 m z, from which that of the displacement is
    subtracted. Euler's error decreases with the number of steps.
    """
    noise, path = normal(20, (1, 1, 2), seed=1), Trigonometric()
    displacement = POINT - noise
    square = math.pi**2 / 8 * (POINT.square() + noise.square()) - math.pi / 2 * POINT * noise
    expected = (square - displacement.square()).flatten(1).sum(1)
    coarse, fine = (
        path_deviation(at_one_point(path), noise, path, steps=n)[0] for n in (500, 1000)
    )
    assert (fine - expected).abs().max() < 0.02
    assert (fine - expected).abs().max() < 0.6 * (coarse - expected).abs().max()


@pytest.mark.parametrize("std", [0.2, 0.5, 1.5])
@pytest.mark.parametrize("path", [Linear(), Linear(0.1), Trigonometric()])
def test_a_gaussian_is_bent_as_much_as_it_is(path: Interpolant, std: float) -> None:
    """Data N(m, s^2) is reached at constant z-score: x_t = alpha m + w z, with w the width of x_t.

    The deviation is the integral of (mean velocity - velocity)^2 along this path, here by the
    trapezoidal rule with an error of 1e-8. Euler's error is proportional to the step, so twice the
    value of 2n steps minus that of n has second order.
    """
    mean = 0.3
    t = torch.linspace(0, 1, 20_001, dtype=torch.float64)
    alpha, sigma, alpha_dot, sigma_dot = (
        share(t).numpy() for share in (path.alpha, path.sigma, path.alpha_dot, path.sigma_dot)
    )
    width = np.sqrt(alpha**2 * std**2 + sigma**2)
    width_dot = (alpha * alpha_dot * std**2 + sigma * sigma_dot) / width
    noise = normal(8, (1, 1, 1), seed=2)
    z = noise.flatten().numpy()[:, None]
    velocity = alpha_dot * mean + width_dot * z
    displacement = mean * alpha[-1] + (width[-1] - 1) * z
    expected = np.trapezoid((displacement - velocity) ** 2, t.numpy(), axis=1)
    predict = gaussian(mean, std, (1, 1, 1)).predictor(path)
    coarse, fine = (torch.stack(path_deviation(predict, noise, path, steps=n)) for n in (400, 800))
    exact = torch.from_numpy(np.stack([expected, displacement[:, 0] ** 2]))
    torch.testing.assert_close(2 * fine - coarse, exact, rtol=2e-3, atol=1e-4)
    torch.testing.assert_close(fine, exact, rtol=3e-2, atol=3e-3)


@pytest.mark.parametrize("mixture", [two_heaps(), three_spots()])
def test_paths_to_a_mixture_are_bent(mixture: Mixture) -> None:
    """All paths are curved, and not because of Euler steps.

    With four times as many steps their sum is the same up to a few per cent: the error is of first
    order.
    """
    noise = normal(64, mixture.shape, seed=3)
    deviation, length = path_deviation(mixture.predictor(Linear()), noise, Linear())
    assert (deviation.dtype, deviation.shape, length.shape) == (torch.float64, (64,), (64,))
    assert (deviation > 1e-2).all()
    finer, _ = path_deviation(mixture.predictor(Linear()), noise, Linear(), steps=4 * STEPS)
    assert finer.sum().item() == pytest.approx(deviation.sum().item(), rel=0.05)


def test_a_path_does_not_depend_on_the_others() -> None:
    mixture, path = three_spots(), Linear()
    noise = normal(16, mixture.shape, seed=4)
    together = torch.stack(path_deviation(mixture.predictor(path), noise, path))
    alone = [
        torch.stack(path_deviation(mixture.predictor(path), part, path)) for part in noise.split(1)
    ]
    torch.testing.assert_close(torch.cat(alone, 1), together, rtol=1e-10, atol=0)


def test_no_gradients_are_recorded() -> None:
    weight = torch.nn.Parameter(torch.ones(()))
    found = path_deviation(
        lambda x, t: Prediction(data=weight * x, noise=x), normal(2, (1, 1, 1), 5), Linear()
    )
    assert not any(part.requires_grad for part in found)
