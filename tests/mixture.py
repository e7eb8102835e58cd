"""A Gaussian mixture as data: samples, densities and ideal predictions in closed form.

With such data there is no model error, so the remaining error is that of the sampler. One component
is a plain Gaussian.

On a path x_t = alpha * data + sigma * noise, each component of the data stays Gaussian, with mean
alpha * m and variance v = alpha^2 s^2 + sigma^2. Nothing here divides by alpha or sigma, so both
ends of a path, where one of them is 0, are exact too.

Shapes: K components, N images, C x H x W numbers per image, D = C H W. Everything is computed in
float64 with NumPy, which is five times faster than PyTorch for thousands of small evaluations.
Results for images x have the dtype of x.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import logsumexp, ndtr, softmax
from torch import Tensor

from dit_lab.core.interpolants import Interpolant
from dit_lab.core.types import Predict, Prediction

Array = np.ndarray[Any, np.dtype[np.float64]]

DIRECTIONS = 16
"""Projections that `Mixture.distance` averages over; one is enough for images of one number."""


@dataclass(frozen=True)
class Moments:
    """Statistics by which samples and the distribution are compared."""

    mean: Tensor  # (D,)
    covariance: Tensor  # (D, D)
    weights: Tensor  # (K,)


class Mixture:
    """sum_k weights[k] N(means[k], stds[k]^2 I).

    weights (K,) are brought to sum 1; means (K, C, H, W); stds is one number or K of them, above 0.
    """

    def __init__(
        self, weights: Sequence[float], means: Tensor, stds: float | Sequence[float]
    ) -> None:
        self.shape = tuple(means.shape[1:])
        self.means = means.to(torch.float64).flatten(1)  # (K, D)
        self.weights = torch.tensor(weights, dtype=torch.float64)
        self.weights = self.weights / self.weights.sum()
        self.stds = torch.as_tensor(stds, dtype=torch.float64).expand(len(means))  # (K,)
        assert len(self.weights) == len(means) and bool((self.stds > 0).all())
        self._means, self._stds = self.means.numpy(), self.stds.numpy()
        self._log_weights = self.weights.log().numpy()

    @property
    def dimension(self) -> int:
        return self.means.shape[1]

    def sample(self, count: int, seed: int) -> Tensor:
        """(count, C, H, W)."""
        source = torch.Generator().manual_seed(seed)
        which = torch.multinomial(self.weights, count, replacement=True, generator=source)
        spread = torch.randn(count, self.dimension, generator=source, dtype=torch.float64)
        out = self.means[which] + self.stds[which, None] * spread
        return out.reshape(count, *self.shape)

    # Densities

    def log_prob(self, x: Tensor) -> Tensor:
        """Of the data, (N,)."""
        return torch.from_numpy(logsumexp(self._logits(_rows(x), 1.0, 0.0), axis=0))

    def marginal_log_prob(self, x: Tensor, interpolant: Interpolant, t: float) -> Tensor:
        """Of x_t, (N,)."""
        logits = self._logits(_rows(x), *shares(interpolant, t))
        return torch.from_numpy(logsumexp(logits, axis=0))

    def responsibilities(self, x: Tensor) -> Tensor:
        """Return the probability (N, K) of each component given x; its mean is `weights`."""
        return torch.from_numpy(softmax(self._logits(_rows(x), 1.0, 0.0), axis=0).T)

    def _logits(self, rows: Array, alpha: float, sigma: float) -> Array:
        """Log of weight times density of every component of x_t, (K, N), at rows (D, N)."""
        variance = self._variance(alpha, sigma)
        distance = sum(
            np.square(row - alpha * mean[:, None])
            for row, mean in zip(rows, self._means.T, strict=True)
        )
        size = self._log_weights - self.dimension / 2 * np.log(2 * math.pi * variance)
        return size[:, None] - distance * (0.5 / variance)[:, None]

    def _variance(self, alpha: float, sigma: float) -> Array:
        """Of every component of x_t, (K,)."""
        return np.square(alpha * self._stds) + sigma**2

    # Predictions

    def predictor(self, interpolant: Interpolant, *, variance_fraction: float = 0.0) -> Predict:
        """E[data | x_t] and E[noise | x_t], as an ideal model would predict them."""

        def predict(x: Tensor, t: float) -> Prediction:
            data, noise = self.ends(x, *shares(interpolant, t))
            return Prediction(data=data, noise=noise, variance_fraction=variance_fraction)

        return predict

    def ends(self, x: Tensor, alpha: float, sigma: float) -> tuple[Tensor, Tensor]:
        """(E[data | x], E[noise | x]) at x (N, C, H, W) = alpha * data + sigma * noise.

        Within one component data and noise are linear in the surprise u = (x - alpha m) / v: data
        is m + alpha s^2 u and noise is sigma u.
        """
        rows = _rows(x)
        share = self._logits(rows, alpha, sigma)
        share = np.exp(share - share.max(0))
        share /= share.sum(0)  # (K, N)
        precision = 1 / self._variance(alpha, sigma)
        shrink = np.square(self._stds) * precision
        centre = self._means.T * (1 - alpha**2 * shrink)
        data = centre @ share + alpha * (shrink @ share) * rows
        noise = sigma * ((precision @ share) * rows - alpha * (self._means.T * precision) @ share)
        return _images(data, x), _images(noise, x)

    def flow(self, x: Tensor, interpolant: Interpolant, start: float, end: float) -> Tensor:
        """Transport x (float64) along the probability flow from time `start` to `end`.

        One component: at constant z-score, in closed form. More: torchdiffeq's dopri5 with
        tolerance 1e-12, for paths with smooth coefficients.
        """
        if len(self.weights) == 1:
            before, after = shares(interpolant, start), shares(interpolant, end)
            growth = math.sqrt(self._variance(*after)[0] / self._variance(*before)[0])
            mean = self.means.reshape(self.shape)
            return after[0] * mean + growth * (x - before[0] * mean)
        from torchdiffeq import odeint

        def velocity(t: Tensor, at: Tensor) -> Tensor:
            data, noise = self.ends(at, *shares(interpolant, t.item()))
            return interpolant.velocity(data, noise, t.item())

        span = torch.tensor([start, end], dtype=torch.float64)
        return odeint(velocity, x, span, rtol=1e-12, atol=1e-12, method="dopri5")[-1]

    # Comparisons

    def moments(self) -> Moments:
        """Of the distribution."""
        mean = self.weights @ self.means
        offset = self.means - mean
        between = torch.einsum("k,ki,kj->ij", self.weights, offset, offset)
        within = (self.weights @ self.stds.square()) * torch.eye(self.dimension).double()
        return Moments(mean, between + within, self.weights)

    def moments_of(self, x: Tensor) -> tuple[Moments, Moments]:
        """Of samples x (N, C, H, W), and the standard error of each number.

        The covariance is taken about the distribution's own mean, so that every number is a mean
        over independent samples.
        """
        flat = _flat(x)
        offset = flat - self.moments().mean
        products = offset[:, :, None] * offset[:, None]
        values = (flat, products, self.responsibilities(x))
        means = (value.mean(0) for value in values)
        errors = (value.std(0) / math.sqrt(len(x)) for value in values)
        return Moments(*means), Moments(*errors)

    def distance(self, x: Tensor) -> float:
        """Return the sliced 2-Wasserstein distance of samples x (N, C, H, W) to the distribution.

        Along each of DIRECTIONS fixed directions, the samples' N sorted projections are paired with
        the distribution's exact quantiles at (i + 1/2) / N; the result is the root mean square of
        all differences, in the units of the data. It detects shifts, widths, weights and shapes.
        Exact samples are not at distance 0 but at `floor`, which decreases like 1 / sqrt(N).
        """
        along = self._directions()
        ours = (_flat(x) @ along.T).sort(0).values  # (N, DIRECTIONS)
        exact = torch.stack([self._quantiles(direction, len(x)) for direction in along], 1)
        return (ours - exact).square().mean().sqrt().item()

    def floor(self, count: int, *, repeats: int = 5) -> float:
        """Mean `distance` of `count` exact samples, over seeds 0 to `repeats` - 1."""
        return float(np.mean([self.distance(self.sample(count, seed)) for seed in range(repeats)]))

    def _directions(self) -> Tensor:
        """Unit vectors (DIRECTIONS, D), always the same; (1, 1) for images of one number."""
        if self.dimension == 1:
            return torch.ones(1, 1, dtype=torch.float64)
        source = torch.Generator().manual_seed(0)
        along = torch.randn(DIRECTIONS, self.dimension, generator=source, dtype=torch.float64)
        return along / along.norm(dim=1, keepdim=True)

    def _quantiles(self, direction: Tensor, count: int) -> Tensor:
        """Of the projection on a unit vector, a mixture on a line, at (i + 1/2) / count.

        Its distribution function on a grid of 1e-3 of the narrowest component, read backwards.
        """
        centres, stds = self._means @ direction.numpy(), self._stds
        low, high = (centres - 9 * stds).min(), (centres + 9 * stds).max()
        grid = np.linspace(low, high, int((high - low) / (1e-3 * stds.min())) + 2)
        below = sum(
            weight * ndtr((grid - centre) / std)
            for weight, centre, std in zip(self.weights.tolist(), centres, stds, strict=True)
        )
        return torch.from_numpy(np.interp((np.arange(count) + 0.5) / count, below, grid))


def gaussian(mean: float = 0.3, std: float = 0.5, shape: tuple[int, ...] = (1, 1, 2)) -> Mixture:
    """One component with the same mean for every number."""
    return Mixture([1.0], torch.full((1, *shape), mean, dtype=torch.float64), std)


def three_spots() -> Mixture:
    """Three components of unlike weight and width on the plane, images of (1, 1, 2)."""
    means = torch.tensor([[1.0, 0.5], [-1.0, 0.3], [0.0, -1.2]], dtype=torch.float64)
    return Mixture([0.5, 0.3, 0.2], means.reshape(3, 1, 1, 2), [0.25, 0.3, 0.4])


def two_heaps() -> Mixture:
    """Two components on a line, images of (1, 1, 1)."""
    means = torch.tensor([-0.8, 0.7], dtype=torch.float64)
    return Mixture([0.35, 0.65], means.reshape(2, 1, 1, 1), [0.25, 0.35])


def normal(count: int, shape: tuple[int, ...], seed: int) -> Tensor:
    """Standard normal float64 (count, *shape)."""
    source = torch.Generator().manual_seed(seed)
    return torch.randn(count, *shape, generator=source, dtype=torch.float64)


def shares(interpolant: Interpolant, t: float) -> tuple[float, float]:
    """(alpha, sigma) at t."""
    time = torch.tensor(t, dtype=torch.float64)
    return interpolant.alpha(time).item(), interpolant.sigma(time).item()


def _flat(x: Tensor) -> Tensor:
    return x.to(torch.float64).flatten(1)


def _rows(x: Tensor) -> Array:
    """Convert images to rows (D, N), for fast sums over few components and few numbers."""
    return np.ascontiguousarray(_flat(x).detach().cpu().numpy().T)


def _images(rows: Array, x: Tensor) -> Tensor:
    """Rows (D, N) as images like x."""
    return torch.from_numpy(np.ascontiguousarray(rows.T)).reshape(x.shape).to(x.device, x.dtype)
