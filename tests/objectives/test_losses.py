"""Every option of the objectives in closed form: targets, weights, times, and refusals."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from dit_lab.core.errors import RequestError
from dit_lab.core.interpolants import Interpolant, shift_time
from dit_lab.core.types import Batch
from dit_lab.objectives.checks import check_flow_matching, check_time_shift
from dit_lab.objectives.ddpm import DDPM
from dit_lab.objectives.elementwise import cost
from dit_lab.objectives.flow import TO_NOISE_ERROR
from dit_lab.objectives.flow_matching import FlowMatching
from dit_lab.objectives.rectified_flow import RectifiedFlow

PATHS = ("linear", "trigonometric", "vp")
KINDS = tuple(TO_NOISE_ERROR)
WEIGHTINGS = ("none", "velocity", "likelihood")
SHAPE = (2, 4, 4)
TIMESTEPS = torch.tensor([0, 1, 20, 300, 700, 999])


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def batch_at(time: Tensor) -> Batch:
    count = len(time)
    return Batch(
        sample_counter=torch.arange(count),
        data=normal(count, *SHAPE, seed=1).clamp(-1, 1),
        labels=torch.zeros(count, dtype=torch.int64),
        noise=normal(count, *SHAPE, seed=2),
        time=time,
        drop_label=torch.zeros(count, dtype=torch.bool),
    )


def output(count: int, channels: int = 2) -> Tensor:
    """What a model might say."""
    return normal(count, channels, *SHAPE[1:], seed=3)


def column(values: Tensor) -> Tensor:
    return values.reshape(-1, 1, 1, 1)


def per_image(squares: Tensor) -> Tensor:
    return squares.double().mean((1, 2, 3))


# DDPM


def ddpm_target(kind: str, batch: Batch, chain: Any) -> Tensor:
    """Salimans & Ho 2022, appendix D, with alpha^2 = alpha_bar."""
    alpha_bar = chain.alphas_cumprod[batch.time]
    alpha, sigma = column(alpha_bar.sqrt()), column((1 - alpha_bar).sqrt())
    data, noise = batch.data.double(), batch.noise.double()
    return {"noise": noise, "data": data, "v": alpha * noise - sigma * data}[kind]


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "cosine"])
@pytest.mark.parametrize("kind", ["noise", "data", "v"])
def test_ddpm_loss_is_the_squared_error_of_the_target(kind: str, schedule: str) -> None:
    objective = DDPM(prediction=kind, beta_schedule=schedule, learn_sigma=False)
    batch, said = batch_at(TIMESTEPS), output(6)
    target = ddpm_target(kind, batch, objective.interpolant)
    terms = objective.loss(lambda x, time: said, batch)
    expected = per_image((said - target).square()).float()
    torch.testing.assert_close(terms["mse"], expected, rtol=1e-5, atol=0)
    assert torch.equal(terms["loss"], terms["mse"])


@pytest.mark.parametrize("kind", ["noise", "data", "v"])
@pytest.mark.parametrize("gamma", [5.0, 0.5])
def test_min_snr_weights(gamma: float, kind: str) -> None:
    """min(SNR, gamma) in the data's error (Hang et al. 2023): over SNR for noise, SNR + 1 for v.

    The result of each is also what the data's own error would be charged, for x as it is.
    """
    objective = DDPM(prediction=kind, learn_sigma=False, min_snr_gamma=gamma)
    chain = objective.interpolant
    batch, said = batch_at(TIMESTEPS), output(6)
    terms = objective.loss(lambda x, time: said, batch)
    alpha_bar = chain.alphas_cumprod[TIMESTEPS]
    snr = alpha_bar / (1 - alpha_bar)
    charged = snr.clamp(max=gamma)
    weight = {"noise": charged / snr, "data": charged, "v": charged / (snr + 1)}[kind]
    torch.testing.assert_close(terms["loss"].double(), weight * terms["mse"], rtol=1e-4, atol=0)
    x = alpha_bar.sqrt().reshape(-1, 1, 1, 1) * batch.data
    x = x + (1 - alpha_bar).sqrt().reshape(-1, 1, 1, 1) * batch.noise
    shares = chain.shares_at(TIMESTEPS, x)
    data, _ = shares.ends(kind, said.double(), x)
    of_data = charged * per_image((data - batch.data).square())
    torch.testing.assert_close(terms["loss"].double(), of_data, rtol=1e-3, atol=0)


def test_min_snr_leaves_the_bound_alone() -> None:
    batch, said = batch_at(TIMESTEPS), output(6, channels=4)
    plain, weighted = (
        DDPM(min_snr_gamma=gamma).loss(lambda x, time: said, batch) for gamma in (None, 5.0)
    )
    assert torch.equal(plain["vb"], weighted["vb"]) and torch.equal(plain["mse"], weighted["mse"])
    gap = plain["loss"] - weighted["loss"]
    assert gap[:3].gt(0).all() and gap[4:].abs().lt(1e-6).all()  # SNR above 5, and below


def test_bound_is_the_same_beside_an_image_at_the_end_of_the_chain() -> None:
    """Whose likelihood is computed only where there is one: losses and gradients, exactly."""
    batch, said = batch_at(TIMESTEPS), output(6, channels=4)
    later = batch.each(lambda tensor: tensor[1:])
    found = []
    for kept, of_model in ((batch, said), (later, said[1:])):
        of_model = of_model.clone().requires_grad_()
        terms = DDPM().loss(lambda x, time, of_model=of_model: of_model, kept)
        terms["loss"].sum().backward()
        assert of_model.grad is not None
        found.append((terms["vb"][-5:], of_model.grad[-5:]))
    (vb, gradient), (alone, its_gradient) = found
    assert torch.equal(vb, alone) and torch.equal(gradient, its_gradient)
    assert gradient[:, 2:].abs().gt(0).any()


@pytest.mark.parametrize(("count", "factor"), [(100, 0.1), (1000, 1.0), (4000, 4.0)])
def test_rescaled_bound_weighs_as_much_for_any_number_of_timesteps(
    count: int, factor: float
) -> None:
    batch, said = batch_at(torch.tensor([0, 1, 50, 99])), output(4, channels=4)
    for rescale, weight in ((True, factor), (False, 1.0)):
        objective = DDPM(num_timesteps=count, rescale_bound=rescale)
        terms = objective.loss(lambda x, time: said, batch)
        expected = terms["mse"] + weight * terms["vb"]
        torch.testing.assert_close(terms["loss"], expected, rtol=1e-6, atol=0)


def test_fixed_variances_are_the_posteriors_and_beta() -> None:
    x = output(1).double()
    for name, large in (("small", False), (None, False), ("large", True)):
        objective = DDPM(learn_sigma=False, fixed_variance=name)
        chain = objective.interpolant
        fraction = objective.prediction(x, x, 0.5).variance_fraction
        for k in (1, 20, 500, 999):
            bars = chain.alphas_cumprod
            beta = chain.betas[k].item()
            posterior = beta * ((1 - bars[k - 1]) / (1 - bars[k])).item()
            variance = chain.log_variance(fraction, x, k).exp().item()
            assert variance == pytest.approx(beta if large else posterior, rel=1e-12)


def test_zero_terminal_snr_teaches_at_the_last_timestep() -> None:
    """There x is the noise, v is minus the data, and the loss is finite."""
    objective = DDPM(prediction="v", learn_sigma=False, zero_terminal_snr=True)
    batch, seen = batch_at(torch.tensor([999])), []

    def model(x: Tensor, time: Tensor) -> Tensor:
        seen.append(x)
        return -batch.data

    assert objective.loss(model, batch)["loss"].item() == 0
    assert torch.equal(seen[0], batch.noise)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"zero_terminal_snr": True}, "prediction=noise: with zero_terminal_snr the last timestep"),
        (
            {"zero_terminal_snr": True, "prediction": "v", "min_snr_gamma": 5},
            "min_snr_gamma=5: gives weight 0 to a timestep without signal",
        ),
        ({"fixed_variance": "large"}, "fixed_variance=large: not with learn_sigma=true"),
        ({"rescale_bound": True, "learn_sigma": False}, "rescale_bound=true: there is no bound in"),
        ({"prediction": "score"}, "prediction: unknown 'score'; use noise, data, v"),
        (
            {"fixed_variance": "medium", "learn_sigma": False},
            "fixed_variance: unknown 'medium'; use small or large",
        ),
        ({"beta_schedule": "sigmoid"}, "beta_schedule: unknown 'sigmoid'; use linear, scaled_lin"),
    ],
)
def test_ddpm_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        DDPM(**options)


# Flows: weights


def times_of(objective: Any) -> Tensor:
    """From end to end of what the objective trains on."""
    u = torch.tensor([0.0, 0.03, 0.3, 0.6, 0.97, 1 - 2.0**-53], dtype=torch.float64)
    return objective.time_from_uniform(u)


def converted(kind: str, to: str, value: Tensor, batch: Batch, path: Interpolant) -> Tensor:
    """A prediction of one kind as one of another, in float64, at the x of the batch."""
    time = batch.time.double()
    x = path.interpolate(batch.data.double(), batch.noise.double(), time)
    data, noise = path.ends(kind, value.double(), x, time)
    return path.target(to, data, noise, time)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", KINDS)
def test_unweighted_loss_is_the_targets(kind: str, path: str) -> None:
    """Of the score, sigma times its error counts: the error of the noise with the sign changed."""
    objective = FlowMatching(path=path, prediction=kind)
    batch, said = batch_at(times_of(objective)), output(6)
    data, noise, time = batch.data.double(), batch.noise.double(), batch.time.double()
    interpolant = objective.interpolant
    if kind == "score":
        error = column(interpolant.sigma(time)) * said + noise
    else:
        rate, loss = (column(f(time)) for f in (interpolant.alpha_dot, interpolant.sigma_dot))
        target = {"noise": noise, "data": data, "velocity": rate * data + loss * noise}[kind]
        error = said - target
    ours = objective.loss(lambda x, time: said, batch)["loss"].double()
    # float32 rounds the velocity of the VP path near data, where sigma falls steeply
    torch.testing.assert_close(ours, per_image(error.square()), rtol=1e-4, atol=0)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", KINDS)
def test_weighted_as_velocity_is_the_error_of_the_velocity(kind: str, path: str) -> None:
    objective = FlowMatching(path=path, prediction=kind, weighting="velocity")
    batch, said = batch_at(times_of(objective)), output(6)
    velocity = converted(kind, "velocity", said, batch, objective.interpolant)
    truth = objective.interpolant.velocity(
        batch.data.double(), batch.noise.double(), batch.time.double()
    )
    ours = objective.loss(lambda x, time: said, batch)["loss"].double()
    torch.testing.assert_close(ours, per_image((velocity - truth).square()), rtol=2e-4, atol=0)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", KINDS)
def test_weighted_by_likelihood_is_the_error_of_the_score(kind: str, path: str) -> None:
    """g^2 / 2 times it (Song et al. 2021), g^2 from the forward SDE's variances: with s = 1 - t,
    d sigma^2 / ds = 2 f sigma^2 + g^2 and f = d log alpha / ds."""
    objective = FlowMatching(path=path, prediction=kind, weighting="likelihood")
    interpolant = objective.interpolant
    batch, said = batch_at(times_of(objective)), output(6)
    time = batch.time.double().requires_grad_()
    (growth,) = torch.autograd.grad(interpolant.sigma(time).square().sum(), time)
    (decay,) = torch.autograd.grad(interpolant.alpha(time).log().sum(), time)
    variance = interpolant.sigma(time.detach()).square()
    diffusion = -growth + 2 * decay * variance
    score = converted(kind, "score", said, batch, interpolant)
    truth = -batch.noise / column(interpolant.sigma(batch.time.double()))
    expected = diffusion / 2 * per_image((score - truth).square())
    ours = objective.loss(lambda x, time: said, batch)["loss"].double()
    torch.testing.assert_close(ours, expected, rtol=2e-4, atol=0)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_every_loss_is_finite_at_every_time(kind: str, path: str, weighting: str) -> None:
    """And the true target costs nothing."""
    objective = FlowMatching(path=path, prediction=kind, weighting=weighting)
    interpolant = objective.interpolant
    time = times_of(objective)
    assert bool(((time >= interpolant.t_min - 1e-7) & (time <= interpolant.t_max + 1e-7)).all())
    assert time[0].item() == pytest.approx(interpolant.t_min, abs=1e-6)
    assert time[-1].item() == pytest.approx(interpolant.t_max, abs=1e-6)
    batch = batch_at(time)
    assert bool(objective.loss(lambda x, t: output(6), batch)["loss"].isfinite().all())
    target = interpolant.target(kind, batch.data, batch.noise, time)
    assert not objective.loss(lambda x, t: target, batch)["loss"].any()


# Flows: weights by SNR


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gamma", [5.0, 0.5])
def test_min_snr_of_a_flow_is_of_the_datas_error(gamma: float, kind: str, path: str) -> None:
    """min(SNR, gamma) times the data's squared error, whatever is predicted, as for DDPM."""
    objective = FlowMatching(path=path, prediction=kind, min_snr_gamma=gamma)
    interpolant = objective.interpolant
    time = torch.tensor([0.05, 0.2, 0.4, 0.6, 0.8, 0.95])
    batch, said = batch_at(time), output(6)
    data = converted(kind, "data", said, batch, interpolant)
    snr = (interpolant.alpha(time.double()) / interpolant.sigma(time.double())).square()
    assert snr.min() < gamma < snr.max()
    expected = snr.clamp(max=gamma) * per_image((data - batch.data).square())
    ours = objective.loss(lambda x, t: said, batch)["loss"].double()
    torch.testing.assert_close(ours, expected, rtol=2e-4, atol=0)


def test_min_snr_on_the_straight_path() -> None:
    """Weights of a velocity's error by hand: min(t^2, 5 (1 - t)^2); the data's own SNR is 5 at
    t = sqrt(5) / (1 + sqrt(5))."""
    time = torch.tensor([0.0, 0.25, 0.5, 0.75, 0.9, 1.0])
    batch, said = batch_at(time), output(6)
    plain, weighted = (
        RectifiedFlow(min_snr_gamma=gamma).loss(lambda x, t: said, batch)["loss"]
        for gamma in (None, 5.0)
    )
    expected = torch.tensor([0.0, 0.0625, 0.25, 0.3125, 0.05, 0.0])
    torch.testing.assert_close(weighted / plain, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loss", ["squared", "huber"])
def test_min_snr_is_finite_at_every_time(loss: str, kind: str, path: str) -> None:
    objective = FlowMatching(path=path, prediction=kind, min_snr_gamma=5.0, loss=loss)
    batch, said = batch_at(times_of(objective)), output(6).requires_grad_()
    terms = objective.loss(lambda x, t: said, batch)["loss"]
    assert bool(terms.isfinite().all())
    (gradient,) = torch.autograd.grad(terms.sum(), said)
    assert bool(gradient.isfinite().all())
    target = objective.interpolant.target(kind, batch.data, batch.noise, batch.time)
    assert not objective.loss(lambda x, t: target, batch)["loss"].any()


# Losses


OBJECTIVES: list[tuple[Any, dict[str, Any]]] = [
    *((DDPM, {"prediction": kind, "learn_sigma": False}) for kind in ("noise", "data", "v")),
    (RectifiedFlow, {}),
    *((FlowMatching, {"path": path, "prediction": kind}) for path in PATHS for kind in KINDS),
]


def test_the_pseudo_huber_loss_in_closed_form() -> None:
    """2 c (sqrt(e^2 + c^2) - c): the square near zero, 2 c |e| far from it."""
    error = torch.tensor([0.0, 1e-3, 0.1, 0.75, 100.0], dtype=torch.float64)
    for c in (0.1, 1.0):
        expected = 2 * c * ((error**2 + c**2).sqrt() - c)
        torch.testing.assert_close(cost(error, "huber", c), expected, rtol=1e-9, atol=1e-15)
    torch.testing.assert_close(cost(error[3:4], "huber", 1.0).item(), 0.5)  # of 3, 4 and 5
    assert torch.equal(cost(error, "huber", None), cost(error, "huber", 0.1))
    assert cost(error[-1:], "huber", 0.1).item() == pytest.approx(2 * 0.1 * (100 - 0.1), rel=1e-6)
    assert torch.equal(cost(error, "squared", None), error.square())
    # no difference of large numbers: float32 at a large c
    tiny = torch.tensor([1e-4])
    torch.testing.assert_close(cost(tiny, "huber", 1e4), tiny.square(), rtol=1e-6, atol=0)


@pytest.mark.parametrize(("kind", "options"), OBJECTIVES)
def test_a_huber_loss_of_a_large_constant_is_the_squared_one(
    kind: Any, options: dict[str, Any]
) -> None:
    time = TIMESTEPS if kind is DDPM else torch.tensor([0.05, 0.2, 0.4, 0.6, 0.8, 0.95])
    batch, said = batch_at(time), output(6)
    squared, large, small = (
        kind(**options, **how).loss(lambda x, t: said, batch)["loss"]
        for how in ({}, {"loss": "huber", "huber_c": 1e4}, {"loss": "huber"})
    )
    torch.testing.assert_close(large, squared, rtol=1e-5, atol=0)
    assert bool((small < squared).all())


@pytest.mark.parametrize("kind", ["noise", "data", "v"])
def test_ddpm_huber_loss(kind: str) -> None:
    """Weighted by SNR like the squared one; "mse" and the bound stay what they are."""
    objective = DDPM(prediction=kind, loss="huber", huber_c=0.5, min_snr_gamma=5.0)
    squared = DDPM(prediction=kind, min_snr_gamma=5.0)
    batch, said = batch_at(TIMESTEPS), output(6, channels=4)
    terms, before = (one.loss(lambda x, t: said, batch) for one in (objective, squared))
    assert torch.equal(terms["mse"], before["mse"]) and torch.equal(terms["vb"], before["vb"])
    weight = (before["loss"] - before["vb"]).double() / before["mse"].double()
    error = said[:, :2].double() - ddpm_target(kind, batch, objective.interpolant)
    charged = per_image(2 * 0.5 * ((error.square() + 0.25).sqrt() - 0.5))
    ours = (terms["loss"] - terms["vb"]).double()
    torch.testing.assert_close(ours, weight * charged, rtol=1e-2, atol=1e-5)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_flow_huber_loss(kind: str, weighting: str) -> None:
    """The weight is that of the squared error; of the score sigma times the error counts."""
    squared = FlowMatching(prediction=kind, weighting=weighting)
    objective = FlowMatching(prediction=kind, weighting=weighting, loss="huber", huber_c=0.5)
    time = torch.tensor([0.05, 0.2, 0.4, 0.6, 0.8, 0.95])
    batch, said = batch_at(time), output(6)
    path = objective.interpolant
    error = said.double() - path.target(
        kind, batch.data.double(), batch.noise.double(), time.double()
    )
    scale = column(path.sigma(time.double())) if kind == "score" else torch.ones(())
    weight = squared.loss(lambda x, t: said, batch)["loss"] / per_image((scale * error).square())
    charged = per_image(2 * 0.5 * (((scale * error).square() + 0.25).sqrt() - 0.5))
    ours = objective.loss(lambda x, t: said, batch)["loss"].double()
    torch.testing.assert_close(ours, weight.double() * charged, rtol=2e-4, atol=0)


@pytest.mark.parametrize("kind", [DDPM, RectifiedFlow, FlowMatching])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "l1"}, "loss=l1: expected squared or huber"),
        ({"huber_c": 0.5}, "huber_c=0.5: belongs to loss=huber"),
    ],
)
def test_losses_that_are_refused(kind: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        kind(**options)


def test_two_weightings_are_refused() -> None:
    with pytest.raises(RequestError, match="min_snr_gamma=5: is a weighting itself; use it or wei"):
        FlowMatching(min_snr_gamma=5, weighting="velocity")


# Flows: direction


def test_direction_is_one_minus_the_cosine_over_channels() -> None:
    weight = 0.3
    batch, said = batch_at(torch.tensor([0.1, 0.5, 0.9])), output(3).requires_grad_()
    terms = RectifiedFlow(direction_weight=weight).loss(lambda x, time: said, batch)
    target = batch.data - batch.noise
    lengths = said.square().sum(1).sqrt() * target.square().sum(1).sqrt()
    cosine = (said * target).sum(1) / lengths
    torch.testing.assert_close(terms["direction"], (1 - cosine).mean((1, 2)))
    torch.testing.assert_close(terms["mse"], (said - target).square().mean((1, 2, 3)))
    assert torch.equal(terms["loss"], terms["mse"] + weight * terms["direction"])
    (gradient,) = torch.autograd.grad(terms["direction"].sum(), said, retain_graph=True)
    # it turns the velocity and leaves its length alone
    along = (gradient * said).sum(1)
    torch.testing.assert_close(along, torch.zeros_like(along), rtol=0, atol=1e-7)
    (expected,) = torch.autograd.grad((1 - cosine).mean((1, 2)).sum(), said)
    torch.testing.assert_close(gradient, expected)


def test_direction_of_one_channel_teaches_nothing() -> None:
    said = output(3, channels=1).requires_grad_()
    batch = batch_at(torch.tensor([0.1, 0.5, 0.9]))
    narrow = Batch(
        **{name: getattr(batch, name) for name in Batch.__slots__ if name not in ("data", "noise")},
        data=batch.data[:, :1],
        noise=batch.noise[:, :1],
    )
    terms = RectifiedFlow(direction_weight=1.0).loss(lambda x, time: said, narrow)
    (gradient,) = torch.autograd.grad(terms["direction"].sum(), said)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-6)


# Flows: times


@pytest.mark.parametrize("sampling", ["uniform", "logit_normal", "cosmap"])
@pytest.mark.parametrize("shift", [1.0, 3.0, 0.4])
def test_shift_moves_the_quantiles(shift: float, sampling: str) -> None:
    u = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    plain, moved = (
        RectifiedFlow(time_sampling=sampling, time_shift=s).time_from_uniform(u)
        for s in (1.0, shift)
    )
    expected = shift_time(plain.double(), shift)
    torch.testing.assert_close(moved.double(), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("shape", "shift"), [((4, 32, 32), 1.0), ((4, 64, 64), 2.0), ((1, 8, 8), 0.125)]
)
def test_automatic_shift_follows_the_size(shape: tuple[int, int, int], shift: float) -> None:
    """sqrt(C H W / 4096)."""
    assert RectifiedFlow(time_shift="auto", latent_shape=shape).time_shift == shift
    assert FlowMatching(time_shift="auto", latent_shape=shape).time_shift == shift
    assert RectifiedFlow(latent_shape=shape).time_shift == 1.0


def test_cosmap_has_its_density() -> None:
    """By differences of the quantile function: du / dt = 2 / (pi - 2 pi t + 2 pi t^2). Its ends
    are 0 and 1, and it is symmetric."""
    u = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)
    flow, h = RectifiedFlow(time_sampling="cosmap"), 1e-5
    middle = flow._quantile(u)
    slope = 2 * h / (flow._quantile(u + h) - flow._quantile(u - h))
    density = 2 / (math.pi - 2 * math.pi * middle + 2 * math.pi * middle.square())
    torch.testing.assert_close(slope, density, rtol=1e-6, atol=0)
    torch.testing.assert_close(flow._quantile(1 - u), 1 - middle, rtol=0, atol=1e-12)
    ends = flow.time_from_uniform(torch.tensor([0.0, 1 - 2.0**-53], dtype=torch.float64))
    assert ends.tolist() == [0.0, 1.0]


@pytest.mark.parametrize("value", [0, -1.0, True, "large", float("nan")])
def test_impossible_shifts_are_refused(value: Any) -> None:
    with pytest.raises(RequestError, match=f"time_shift={value}: expected a number above 0, or au"):
        check_time_shift(value)
    with pytest.raises(RequestError, match=f"time_shift={value}: expected a number above 0, or au"):
        RectifiedFlow(time_shift=value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"path": "vp", "sigma_min": 0.1},
            r"sigma_min=0\.1: belongs to path=linear; path=vp has",
        ),
        ({"path": "spiral"}, "path: unknown 'spiral'; use linear, trigonometric or vp"),
        ({"prediction": "v"}, "prediction: unknown 'v'; use noise, data, score, velocity"),
        ({"weighting": "snr"}, "weighting: unknown 'snr'; use none, velocity, likelihood"),
        ({"time_shift": "auto"}, "time_shift=auto: needs latent_shape"),
        ({"sigma_min": 1.0}, r"sigma_min: 1\.0 is not in \[0, 1\)"),
    ],
)
def test_flow_matching_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        FlowMatching(**options)


def test_default_width_is_small_and_belongs_to_straight_paths() -> None:
    assert FlowMatching().interpolant.final_sigma() == pytest.approx(1e-4)
    check_flow_matching(path="linear", sigma_min=0.1)
    check_flow_matching(path="vp", sigma_min=None)
