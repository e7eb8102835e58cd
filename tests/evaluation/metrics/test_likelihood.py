"""Bits per dimension: flows of known density, and the conversion for images."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dit_lab.core import rng
from dit_lab.core.discrete_diffusion import DiscreteDiffusion, make_betas
from dit_lab.core.errors import StopRequested
from dit_lab.core.interpolants import Interpolant, Linear, Trigonometric, VariancePreserving
from dit_lab.core.types import LabelledCall, Predict, Prediction
from dit_lab.data.digits import Digits
from dit_lab.evaluation.metrics.likelihood import (
    CHUNK_IMAGES,
    Likelihood,
    bits_per_dimension,
    exact_divergence,
    log_density,
)
from dit_lab.models.dit import DiT
from dit_lab.objectives.rectified_flow import RectifiedFlow
from tests.mixture import Mixture, gaussian, normal, shares, three_spots, two_heaps

CHAIN = DiscreteDiffusion(make_betas("linear", 1000, zero_terminal_snr=True))
MIXTURES = {"gaussian": gaussian(), "two heaps": two_heaps(), "three spots": three_spots()}
MILLIBIT = 1e-3


def differentiable(mixture: Mixture, path: Interpolant) -> Predict:
    """Like `mixture.predictor`, but in torch instead of NumPy, so that it can be differentiated."""
    shape = (-1, len(mixture.weights), *[1] * 3)

    def predict(x: Tensor, t: float) -> Prediction:
        alpha, sigma = shares(path, t)
        variance = (alpha * mixture.stds).square() + sigma**2  # (K,)
        means = mixture.means.reshape(1, -1, *mixture.shape)
        gap = x[:, None] - alpha * means  # (N, K, C, H, W)
        size = mixture.weights.log() - mixture.dimension / 2 * variance.log()
        logits = size - gap.square().flatten(2).sum(2) / (2 * variance)
        share = logits.softmax(1).reshape(shape)
        surprise = gap / variance.reshape(shape)
        data = means + alpha * mixture.stds.square().reshape(shape) * surprise
        return Prediction(data=(share * data).sum(1), noise=(share * sigma * surprise).sum(1))

    return predict


@pytest.mark.parametrize("path", [Linear(), VariancePreserving()])
@pytest.mark.parametrize("mixture", MIXTURES.values(), ids=MIXTURES)
def test_the_differentiable_predictions_are_the_mixtures(
    mixture: Mixture, path: Interpolant
) -> None:
    x = normal(20, mixture.shape, seed=0)
    for t in (path.t_min, 0.3, path.t_max):
        found, expected = differentiable(mixture, path)(x, t), mixture.predictor(path)(x, t)
        torch.testing.assert_close(found.data, expected.data, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(found.noise, expected.noise, rtol=1e-10, atol=1e-12)


# ---- densities ----------------------------------------------------------------------------------


def bits(log_probability: Tensor, mixture: Mixture) -> Tensor:
    return bits_per_dimension(log_probability, dimensions=mixture.dimension, level_width=1.0)


def at_the_end(mixture: Mixture, path: Interpolant, count: int = 24) -> Tensor:
    """Return samples of x at t_max."""
    alpha, sigma = shares(path, path.t_max)
    return alpha * mixture.sample(count, 0) + sigma * normal(count, mixture.shape, 1)


PATHS = {"linear": Linear(), "flow matching": Linear(0.1), "trigonometric": Trigonometric()}


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("mixture", MIXTURES.values(), ids=MIXTURES)
def test_densities_are_those_of_the_data(mixture: Mixture, path: Interpolant) -> None:
    """The density of x at t_max: flow matching still has noise there.

    It is therefore the density of data with that noise. At t_min all these paths are exactly noise.
    """
    x = at_the_end(mixture, path)
    found = log_density(differentiable(mixture, path), x, path)
    expected = mixture.marginal_log_prob(x, path, path.t_max)
    assert found.dtype == torch.float64
    assert (bits(found, mixture) - bits(expected, mixture)).abs().max() < MILLIBIT
    if path.final_sigma() == 0:
        torch.testing.assert_close(expected, mixture.log_prob(x))


@pytest.mark.parametrize("mixture", MIXTURES.values(), ids=MIXTURES)
def test_densities_of_a_chain_are_known_to_some_thousandths(mixture: Mixture) -> None:
    """The data still contain 1% noise at t_max.

    The log-SNR has a kink at each of 1,000 timesteps, which the solver's steps do not hit: about
    0.002 bits are wrong at any tolerance.
    """
    x = at_the_end(mixture, CHAIN, 12)
    found = log_density(differentiable(mixture, CHAIN), x, CHAIN)
    expected = mixture.marginal_log_prob(x, CHAIN, CHAIN.t_max)
    assert (bits(found, mixture) - bits(expected, mixture)).abs().max() < 5 * MILLIBIT


@pytest.mark.parametrize("mixture", MIXTURES.values(), ids=MIXTURES)
def test_a_path_that_begins_with_some_data_is_followed_back_to_its_begin(mixture: Mixture) -> None:
    """The variance-preserving path contains 0.7% of the data at t = 0.

    The lab and the samplers treat this x as pure noise. So the density differs from the marginal at
    t_max because x at t_min is not quite standard normal: up to 0.01 bits.
    """
    path = VariancePreserving()
    x = at_the_end(mixture, path)
    found = log_density(differentiable(mixture, path), x, path)
    start = mixture.flow(x, path, path.t_max, path.t_min)
    flat = start.flatten(1)
    taken_for = -(flat.square() + math.log(2 * math.pi)).sum(1) / 2
    really = mixture.marginal_log_prob(start, path, path.t_min)
    expected = mixture.marginal_log_prob(x, path, path.t_max)
    corrected = found - taken_for + really
    assert (bits(corrected, mixture) - bits(expected, mixture)).abs().max() < MILLIBIT
    assert (bits(found, mixture) - bits(expected, mixture)).abs().max() < 10 * MILLIBIT


@pytest.mark.parametrize("tolerance", [1e-3, 1e-5, 1e-7])
def test_the_error_falls_with_the_tolerance(tolerance: float) -> None:
    mixture, path = three_spots(), Linear()
    x = at_the_end(mixture, path)
    found = log_density(differentiable(mixture, path), x, path, tolerance=tolerance)
    assert (found - mixture.log_prob(x)).abs().max() < 30 * tolerance


def test_float32_is_enough() -> None:
    """What a model computes in: the integral of some hundred float32 numbers."""
    mixture, path = three_spots(), Linear()
    x = at_the_end(mixture, path).float()

    def predict(x: Tensor, t: float) -> Prediction:
        found = differentiable(mixture, path)(x, t)
        return Prediction(data=found.data.float(), noise=found.noise.float())

    found = log_density(predict, x, path)
    assert found.dtype == torch.float32
    assert (bits(found.double(), mixture) - bits(mixture.log_prob(x), mixture)).abs().max() < (
        MILLIBIT
    )


def test_the_exact_divergence_is_the_trace() -> None:
    matrix = normal(6, (6,), seed=0)
    x = normal(4, (1, 2, 3), seed=1).requires_grad_()
    velocity = (x.flatten(1).square() @ matrix.T).reshape(x.shape)
    expected = (2 * x.detach().flatten(1) * matrix.diagonal()).sum(1)
    torch.testing.assert_close(exact_divergence(velocity, x), expected)


# ---- the estimate -------------------------------------------------------------------------------


def signs(count: int, shape: tuple[int, ...], seed: int) -> Tensor:
    return normal(count, shape, seed).sign()


@pytest.mark.parametrize("path", [Linear(), Trigonometric()])
def test_a_random_probe_is_right_on_average(path: Interpolant) -> None:
    """The mean over many probes of one image is within five standard errors.

    All else is equal: the path is that of the exact divergence.
    """
    mixture, count = three_spots(), 4000
    for x in mixture.sample(2, seed=5).split(1):
        predict = differentiable(mixture, path)
        many = x.expand(count, *mixture.shape)
        found = log_density(predict, many, path, probe=signs(count, mixture.shape, 6))
        exact = log_density(predict, x, path).item()
        error = found.std().item() / math.sqrt(count)
        assert 1e-5 < error < 0.05  # probes do differ, and little enough for a test to say much
        assert abs(found.mean().item() - exact) < 5 * error


def test_a_probe_is_exact_where_dimensions_do_not_mix() -> None:
    """Squared signs are 1, and the Jacobian of one Gaussian is a multiple of the identity."""
    mixture, path = gaussian(), Linear()
    x = mixture.sample(8, seed=0)
    predict = differentiable(mixture, path)
    probed = log_density(predict, x, path, probe=signs(8, mixture.shape, 1))
    torch.testing.assert_close(probed, log_density(predict, x, path), rtol=0, atol=1e-9)


# ---- bits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("levels", "dimensions"), [(2, 1), (17, 64), (256, 12)])
def test_a_uniform_density_has_the_bits_of_its_levels(levels: int, dimensions: int) -> None:
    """Dequantised images fill [-1 - w/2, 1 + w/2], w being the width of a level: `levels` of it."""
    width = 2 / (levels - 1)
    density = torch.full((3,), -dimensions * math.log(2 + width), dtype=torch.float64)
    found = bits_per_dimension(density, dimensions=dimensions, level_width=width)
    torch.testing.assert_close(found, torch.full_like(found, math.log2(levels)))


# ---- of digits ----------------------------------------------------------------------------------


class Still:
    """A model with velocity 0, so that x does not move; records the labels it is given."""

    def __init__(self) -> None:
        self.labels: list[Tensor] = []

    def __call__(self, x: Tensor, time: Tensor, labels: Tensor) -> Tensor:
        self.labels.append(labels)
        return 0 * x


def likelihood(held_out: Digits, *, num_images: int = 8, seed: int = 0) -> Likelihood:
    return Likelihood(
        objective=RectifiedFlow(time_scale=1.0),
        held_out=held_out,
        num_images=num_images,
        levels=17,
        seed=seed,
        device=torch.device("cpu"),
        check_stop=lambda: None,
    )


@pytest.fixture(scope="module")
def weights(make_model: Callable[..., DiT]) -> DiT:
    return make_model(perturbed=True).eval()


@pytest.fixture(scope="module")
def model(weights: DiT) -> LabelledCall:
    """A tenth of the velocity of a small DiT, which the solver integrates in few steps."""
    return lambda x, time, labels: 0.1 * weights(x, time, labels)


def test_images_under_noise_itself_in_closed_form(held_out_digits: Digits) -> None:
    """Images are evenly spaced over the split, moved by less than half a level, and labelled."""
    row = likelihood(held_out_digits, num_images=40).row(still := Still())
    indices = torch.arange(40) * 9
    images, labels = held_out_digits.fetch(indices, None)
    moved = rng.normal(0, "likelihood/dequantisation", indices, (1, 8, 8))
    x = images.double() + 2 / 16 * (torch.special.ndtr(moved.double()) - 0.5)
    assert (x - images).abs().max() <= 1 / 16
    nats = (x.square() + math.log(2 * math.pi)).flatten(1).sum(1) / 2
    expected = nats / (64 * math.log(2)) - math.log2(2 / 16)
    assert row.value == pytest.approx(expected.mean().item(), abs=1e-5)
    assert row.deviation == pytest.approx(expected.std().item() / math.sqrt(40), rel=1e-4)
    assert (row.metric, row.against, row.num_images) == ("bits_per_dimension", "held-out", 40)
    given = [tuple(found.tolist()) for found in still.labels]
    chunks = [tuple(chunk.tolist()) for chunk in labels.split(CHUNK_IMAGES)]
    assert list(dict.fromkeys(given)) == chunks


def test_a_row_is_found_again_exactly(held_out_digits: Digits, model: LabelledCall) -> None:
    first, again, other = (likelihood(held_out_digits, seed=seed).row(model) for seed in (0, 0, 1))
    assert first == again
    assert other.value != first.value
    assert math.isfinite(first.value) and first.deviation > 0


def test_the_label_counts(held_out_digits: Digits, model: LabelledCall) -> None:
    def other_label(x: Tensor, time: Tensor, labels: Tensor) -> Tensor:
        return model(x, time, (labels + 1) % 10)

    measured = likelihood(held_out_digits)
    assert measured.row(model).value != measured.row(other_label).value


def test_weights_get_no_gradients(
    held_out_digits: Digits, weights: DiT, model: LabelledCall
) -> None:
    """They take part in what is differentiated, and an evaluation may come amid a training."""
    assert any(weight.requires_grad for weight in weights.parameters())
    assert torch.is_grad_enabled()
    value = likelihood(held_out_digits, num_images=2).row(model).value
    assert all(weight.grad is None for weight in weights.parameters())
    with torch.no_grad():  # as an evaluator of a training is called
        assert likelihood(held_out_digits, num_images=2).row(model).value == value


def test_no_more_images_than_there_are_and_one_has_no_error(held_out_digits: Digits) -> None:
    assert likelihood(held_out_digits, num_images=10_000).row(Still()).num_images == 360
    row = likelihood(held_out_digits, num_images=1).row(Still())
    assert (row.num_images, row.deviation) == (1, None)


def test_it_can_be_stopped_between_two_passes(held_out_digits: Digits, model: LabelledCall) -> None:
    asked: list[LabelledCall] = []

    def stop() -> None:
        asked.append(model)
        if len(asked) == 5:
            raise StopRequested(15)

    with pytest.raises(StopRequested):
        replace(likelihood(held_out_digits), check_stop=stop).row(model)
    assert len(asked) == 5
