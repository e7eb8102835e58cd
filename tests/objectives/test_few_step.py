"""Few-step objectives: closed forms on Gaussian data, flow matching as a limit, references."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dit_lab.core.types import Batch, LabelledCall, ModelCall, Progress
from dit_lab.models.dit import DiT
from dit_lab.objectives.consistency import Consistency
from dit_lab.objectives.derivative import along
from dit_lab.objectives.flow import FlowObjective
from dit_lab.objectives.improved_mean_flow import ImprovedMeanFlow
from dit_lab.objectives.mean_flow import MeanFlow
from dit_lab.objectives.rectified_flow import RectifiedFlow
from dit_lab.objectives.shortcut import Shortcut
from dit_lab.training.batches import Draws, no_draws

MEAN, DEVIATION = 0.7, 0.5  # of every pixel of Gaussian data
CLASSES, IMAGES = 10, 24
STEPS = 700  # of training the closed form
MakeModel = Callable[..., DiT]


def drawn(objective: Any, *, count: int = IMAGES, drop: float = 0.2) -> Batch:
    """A batch with the draws of training, of random images."""
    draws = Draws(
        seed=0,
        purpose="train",
        latent_shape=(1, 8, 8),
        time_from_uniform=objective.time_from_uniform,
        further=getattr(objective, "draws", no_draws),
        label_drop_prob=drop,
    )
    images = torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(5))
    return draws.batch(images, torch.arange(count) % CLASSES, torch.arange(count)).batch


def call(model: LabelledCall, batch: Batch, *, step: int = 0, **more: Any) -> ModelCall:
    labels = torch.where(batch.drop_label, CLASSES, batch.labels)
    return ModelCall(
        model=model, labels=labels, null_label=CLASSES, progress=Progress(step, 100), **more
    )


def model_for(objective: Any, make_model: MakeModel) -> DiT:
    return make_model(perturbed=True, depth=2, **objective.needs.arguments())


# ---- Gaussian data ------------------------------------------------------------------------------


def velocity(x: Tensor, t: Tensor) -> Tensor:
    """The mean velocity at x for data N(MEAN, DEVIATION^2), on the straight path."""
    slope = (t * DEVIATION**2 - (1 - t)) / spread(t) ** 2
    return MEAN + slope * (x - t * MEAN)


def spread(t: Tensor) -> Tensor:
    return ((t * DEVIATION) ** 2 + (1 - t) ** 2).sqrt()


def average_velocity(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """(x_s - x) / (s - t) of the closed flow map."""
    there = s * MEAN + spread(s) / spread(t) * (x - t * MEAN)
    return torch.where(s == t, velocity(x, t), (there - x) / torch.where(s == t, 1.0, s - t))


def points(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """x (N, 1, 1, 1), t and s > t (N,) in float64."""
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(count, 1, 1, 1, generator=draw, dtype=torch.float64)
    times = 0.05 + 0.9 * torch.rand(count, 2, generator=draw, dtype=torch.float64)
    return x, times.min(1).values, times.max(1).values


def shaped(t: Tensor) -> Tensor:
    return t.reshape(-1, 1, 1, 1)


def test_the_identity_holds_for_the_exact_average_velocity() -> None:
    x, t, s = points(200)

    def exact(x: Tensor, t: Tensor) -> Tensor:
        return average_velocity(x, shaped(t), shaped(s))

    v = velocity(x, shaped(t))
    residual = exact(x, t) - v - shaped(s - t) * along(exact, x, t, v, by="jvp")
    assert residual.abs().max() < 1e-10
    apart = along(exact, x, t, v, by="difference") - along(exact, x, t, v, by="jvp")
    assert 0 < apart.abs().max() < 2e-3


class Learned(nn.Module):
    """A small network of (x, t, s) without labels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Linear(5, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 2)
        )

    def forward(self, x: Tensor, time: Tensor, labels: Tensor, to: Tensor) -> Tensor:
        gap = to - time
        features = torch.stack([time, gap, time * gap, time**2, gap**2], dim=1)
        slope, shift = self.layers(features).reshape(-1, 2, 1, 1, 1).unbind(1)
        return slope * x + shift


def of_points(x: Tensor, t: Tensor, s: Tensor, *, velocity_at: Tensor) -> Batch:
    """A batch whose noisy images are x and whose data - noise is this velocity."""
    return Batch(
        sample_counter=torch.arange(len(x)),
        data=x + (1 - shaped(t)) * velocity_at,
        labels=torch.zeros(len(x), dtype=torch.int64),
        noise=x - shaped(t) * velocity_at,
        time=t,
        drop_label=torch.zeros(len(x), dtype=torch.bool),
        draws={"second_time": s, "equal": torch.arange(len(x)) % 4 == 0},
    )


def test_training_finds_the_average_velocity() -> None:
    """The data of each x are replaced by their mean, so that only the fit is left."""
    x, t, s = points(256)
    objective = MeanFlow(weight_power=0, time_scale=1.0)
    model = Learned().double()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    batch = of_points(x, t, s, velocity_at=velocity(x, shaped(t)))
    predict = ModelCall(model=model, labels=batch.labels, progress=Progress())
    for _ in range(STEPS):
        optimizer.zero_grad()
        objective.loss(predict, batch)["loss"].mean().backward()
        optimizer.step()
        schedule.step()
    found = model(x, t, batch.labels, s)
    exact = average_velocity(x, shaped(t), shaped(s))
    assert (found - exact).square().mean().sqrt() < 1e-2
    flow = velocity(x, shaped(t))
    assert (flow - exact).square().mean().sqrt() > 0.3  # it is not the velocity that was learned


# ---- flow matching as a limit -------------------------------------------------------------------


def gradients(objective: Any, model: nn.Module, batch: Batch, **more: Any) -> list[Tensor]:
    """Loss of each image, and the gradient of every weight of a flow."""
    model.zero_grad()
    terms = objective.loss(call(model, batch, **more), batch)
    terms["loss"].mean().backward()
    grads = [w.grad for name, w in model.named_parameters() if "scalar_embedders" not in name]
    return [terms["loss"].detach(), *(grad for grad in grads if grad is not None)]


@pytest.mark.parametrize("limit", ["mean_flow", "shortcut"])
def test_equal_times_are_flow_matching_bit_for_bit(limit: str, make_model: MakeModel) -> None:
    """The second embedding starts at zero, so that the weights are those of the flow."""
    objective: FlowObjective
    if limit == "mean_flow":
        objective = MeanFlow(equal_share=1.0, weight_power=0.0)
    else:
        objective = Shortcut(bootstrap_every=1000)
    batch = drawn(objective).each(lambda tensor: tensor[1:])  # image 0 is a shortcut
    if limit == "mean_flow":
        batch.draws["second_time"].copy_(batch.time)
    two, one = (make_model(depth=2, **more) for more in ({"second_time": True}, {}))
    for model in (two, one):  # moved off the zero function, alike
        draw = torch.Generator().manual_seed(3)
        for name, weight in model.named_parameters():
            if "scalar_embedders" not in name:
                weight.data += 0.1 * torch.randn(weight.shape, generator=draw)
    found = gradients(objective, two, batch, averaged=two)
    expected = gradients(RectifiedFlow(time_scale=1.0), one, batch)
    assert len(found) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_shortcut_approaches_flow_matching_as_its_steps_shrink(make_model: MakeModel) -> None:
    """Two half steps from t have the mean velocity v + O(d); the model is one of no second time."""
    objective = Shortcut(target_weights="current")
    model = make_model(perturbed=True).double()
    batch = drawn(objective).each(lambda x: x.double() if x.is_floating_point() else x)
    predict = call(lambda x, time, labels, to: model(x, time, labels), batch)
    x, t = batch.noise, batch.time

    def error(d: float) -> float:
        two = objective._two_steps(predict, x, t, t + d, predict.labels)
        return (two - objective.ask(predict, x, t, t)).abs().max().item()

    assert error(1e-4) < error(1e-2) / 20


def test_consistency_of_the_exact_model_is_zero() -> None:
    """The closed flow map sends every point of a trajectory to the same data."""
    objective = Consistency(time_scale=1.0)

    def exact(x: Tensor, time: Tensor, labels: Tensor) -> Tensor:
        t = shaped(time)
        return average_velocity(x, t, torch.ones_like(t))

    def error(step: int) -> float:
        predict = ModelCall(model=exact, labels=batch.labels, progress=Progress(step, 100))
        return objective.loss(predict, batch)["error"].mean().item()

    x, t, _ = points(100)
    batch = of_points(x, t, t, velocity_at=velocity(x, shaped(t)))
    # Both points of a pair are on one straight line of data and noise, not on one trajectory, so
    # that the error vanishes only as they come together.
    assert error(99) < error(0) / 1000


# ---- losses of the references -------------------------------------------------------------------


def compared(found: Tensor, expected: Tensor, model: nn.Module) -> None:
    """Both losses of each image, and their gradients, agree to 1e-5."""
    grads = []
    for loss in (found, expected):
        model.zero_grad()
        loss.mean().backward(retain_graph=True)
        grads.append([w.grad.clone() for w in model.parameters() if w.grad is not None])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    largest = max(grad.abs().max().item() for grad in grads[1])
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * largest)


class Reversed:
    """The network in the time direction of the references: 0 is data and 1 is noise."""

    def __init__(self, model: DiT, scale: float) -> None:
        self.model, self.scale = model, scale

    def __call__(self, x: Tensor, t: Tensor, r: Tensor, labels: Tensor, **more: Any) -> Any:
        times = (self.scale * (1 - time.flatten()) for time in (t, r))
        time, to = times
        found = self.model(x, time, labels, to=to, **more)
        if isinstance(found, Tensor):
            return -found
        return -found.main, -found.heads["velocity"]


def jvp(function: Callable[..., Any], primals: Any, tangents: Any) -> Any:
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        return torch.func.jvp(function, primals, tangents)


@pytest.mark.parametrize("guided", [False, True])
def test_mean_flow_is_the_loss_of_the_reference(guided: bool, make_model: MakeModel) -> None:
    """Geng et al. 2025, algorithm 1, and their guidance, eq. 19."""
    omega, kappa = (0.5, 0.6) if guided else (1.0, 0.0)
    objective = MeanFlow(
        equal_share=0.25, guidance_omega=omega, guidance_kappa=kappa, guidance_interval=(0.3, 1.0)
    )
    batch = drawn(objective)
    model = model_for(objective, make_model)
    found = objective.loss(call(model, batch), batch)["loss"]

    net = Reversed(model, objective.time_scale)
    labels = torch.where(batch.drop_label, CLASSES, batch.labels)
    ours_t, ours_s = objective.times(batch)
    t, r = shaped(1 - ours_t), shaped(1 - ours_s)
    z = (1 - t) * batch.data + t * batch.noise
    v = batch.noise - batch.data
    if guided:
        nulls = torch.full_like(labels, CLASSES)
        with torch.no_grad():
            mixed = omega * v + kappa * net(z, t, t, labels)
            mixed = mixed + (1 - omega - kappa) * net(z, t, t, nulls)
        on = shaped((~batch.drop_label) & (t.flatten() <= 0.7))
        v = torch.where(on, mixed, v)
    u, dudt = jvp(
        lambda z, t, r: net(z, t, r, labels),
        (z, t, r),
        (v, torch.ones_like(t), torch.zeros_like(r)),
    )
    error = ((u - (v - (t - r) * dudt).detach()) ** 2).sum(dim=(1, 2, 3))
    compared(found, error / (error.detach() + 1e-3), model)


def test_improved_mean_flow_is_the_loss_of_the_reference(make_model: MakeModel) -> None:
    """The released code's loss: V on the guided velocity, with the head's velocity as tangent."""
    objective = ImprovedMeanFlow(equal_share=0.3)
    batch = drawn(objective)
    model = model_for(objective, make_model)
    found = objective.loss(call(model, batch), batch)["loss"]

    net, scale = Reversed(model, objective.time_scale), objective.time_scale
    ours_t, ours_s = objective.times(batch)
    t, r = shaped(1 - ours_t), shaped(1 - ours_s)
    w = batch.draws["guidance"]
    # Their interval is in their time: its start is our end.
    t_min, t_max = 1 - batch.draws["guidance_until"], 1 - batch.draws["guidance_from"]

    def both(
        z: Tensor, t: Tensor, r: Tensor, w: Tensor, low: Tensor, high: Tensor, y: Tensor
    ) -> Any:
        conditions = {
            "guidance": scale * (1 - 1 / w),
            "guidance_from": scale * (1 - high),
            "guidance_until": scale * (1 - low),
        }
        return net(z, t, r, y, conditions=conditions, heads=["velocity"])

    z = (1 - t) * batch.data + t * batch.noise
    v_t = batch.noise - batch.data
    zeros, ones = torch.zeros_like(w), torch.ones_like(w)
    nulls = torch.full_like(batch.labels, CLASSES)
    with torch.no_grad():
        in_interval = torch.where((t.flatten() >= t_min) & (t.flatten() <= t_max), w, 1.0)
        v_u = both(z, t, t, ones, zeros, ones, nulls)[1]
        v_c = both(z, t, t, in_interval, zeros, ones, batch.labels)[1]
        v_g = v_t + shaped(1 - 1 / in_interval) * (v_c - v_u)
        v_g = torch.where(shaped(batch.drop_label), v_t, v_g)
    labels = torch.where(batch.drop_label, CLASSES, batch.labels)

    def average(z: Tensor, t: Tensor, r: Tensor) -> Tensor:
        return both(z, t, r, w, t_min, t_max, labels)[0]

    _, du_dt = jvp(average, (z, t, r), (v_c, torch.ones_like(t), torch.zeros_like(r)))
    u, v = both(z, t, r, w, t_min, t_max, labels)
    compound = u + (t - r) * du_dt.detach()

    def weighted(error: Tensor) -> Tensor:
        summed = (error**2).sum(dim=(1, 2, 3))
        return summed / (summed.detach() + 0.01)

    compared(found, weighted(compound - v_g) + weighted(v - v_g), model)


def test_shortcut_is_the_loss_of_the_reference(make_model: MakeModel) -> None:
    """Frans et al. 2024, algorithm 1: time runs as here, steps are levels of 1 / 2^k."""
    objective = Shortcut(bootstrap_every=2)
    batch = drawn(objective)
    model = model_for(objective, make_model)
    averaged = make_model(depth=2, second_time=True, generator=torch.Generator().manual_seed(9))
    found = objective.loss(call(model, batch, averaged=averaged), batch)["loss"]

    scale = objective.time_scale
    labels = torch.where(batch.drop_label, CLASSES, batch.labels)
    rows = []
    for n in range(len(labels)):
        one = slice(n, n + 1)
        x1, x0, y = batch.data[one], batch.noise[one], labels[one]
        if n % 2 == 0:
            sections = batch.draws["steps"][one].float()
            t, dt = batch.draws["place"][one] / sections, 1 / sections
            x_t = (1 - t) * x0 + t * x1

            def half(x: Tensor, t: Tensor, dt: Tensor = dt, y: Tensor = y) -> Tensor:
                size = torch.zeros_like(dt) if dt.item() == 2 / 128 else dt / 2
                return averaged(x, scale * t, y, to=scale * (t + size))

            with torch.no_grad():
                v1 = half(x_t, t)
                v2 = half(x_t + dt / 2 * v1, t + dt / 2)
            target = (v1 + v2) / 2
        else:
            t, dt = batch.time[one], torch.zeros(1)
            x_t, target = (1 - t) * x0 + t * x1, x1 - x0
        rows.append((model(x_t, scale * t, y, to=scale * (t + dt)) - target).square().mean())
    compared(found, torch.stack(rows), model)


def test_every_step_size_of_a_shortcut_is_drawn_alike() -> None:
    batch = drawn(Shortcut(), count=7000)
    steps, place = batch.draws["steps"], batch.draws["place"]
    counts = steps.log2().round().long().bincount()
    assert len(counts) == 7 and bool(((counts - 1000).abs() < 120).all())
    assert bool(((place >= 0) & (place < steps)).all())
    assert set(place[steps == 4].tolist()) == {0, 1, 2, 3}


@pytest.mark.parametrize("step", [0, 60])
def test_consistency_is_the_loss_of_the_reference(step: int, make_model: MakeModel) -> None:
    """Geng et al. 2024: data with noise of deviation sigma, weighted by 1 / (sigma - nearer)."""
    objective = Consistency(time_scale=1.0)
    batch = drawn(objective).each(lambda x: x.double() if x.is_floating_point() else x)
    model = make_model(perturbed=True).double()
    found = objective.loss(call(model, batch, step=step), batch)["loss"]
    labels = torch.where(batch.drop_label, CLASSES, batch.labels)

    def denoised(noisy: Tensor, sigma: Tensor) -> Tensor:
        t = 1 / (1 + sigma)
        x = shaped(t) * noisy
        return x + shaped(1 - t) * model(x, objective.time_scale * t, labels)

    sigma = (1 - batch.time) / batch.time
    stage = 8 * step // 100
    ratio = 1 - (1 + 8 * torch.sigmoid(-sigma)) / 2 ** (stage + 1)
    nearer = (sigma * ratio).clamp(min=0)
    with torch.no_grad():
        target = denoised(batch.data + shaped(nearer) * batch.noise, nearer)
        target = torch.where(shaped(nearer > 0), target, batch.data)
    apart = denoised(batch.data + shaped(sigma) * batch.noise, sigma) - target
    expected = apart.square().sum(dim=(1, 2, 3)).sqrt() / (sigma - nearer)
    compared(found, expected, model)
