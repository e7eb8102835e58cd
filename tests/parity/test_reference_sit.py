"""The lab's DiT, rectified flow and ODE samplers against outputs of the original SiT.

SiT uses unscaled time in [0, 1] and ignores the second half of its channels: time_scale 1 and
learn_sigma. Tolerances as in test_reference_dit.py.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dit_lab.core.types import Batch, Prediction, Sampler
from dit_lab.models.dit import DiT
from dit_lab.objectives.rectified_flow import RectifiedFlow
from dit_lab.samplers.adaptive import Dopri5
from dit_lab.samplers.guidance import Guidance, predictor
from dit_lab.samplers.ode import RK4, Euler, Heun
from dit_lab.samplers.sde import EulerMaruyama

ONCE, LOOP = 1e-5, 1e-4
Error = Callable[[Tensor, Tensor], float]


@pytest.fixture(scope="module")
def reference(load_reference) -> tuple[DiT, dict[str, Tensor]]:
    return load_reference("sit_tiny")


@pytest.fixture(scope="module")
def objective() -> RectifiedFlow:
    return RectifiedFlow(time_scale=1.0, learn_sigma=True)


def velocity_of(objective: RectifiedFlow, prediction: Prediction, t: float) -> Tensor:
    return objective.interpolant.velocity(prediction.data, prediction.noise, t)


@torch.no_grad()
def test_forward(reference, relative_error: Error) -> None:
    model, tensors = reference
    out = model(tensors["forward.x"], tensors["forward.t"], tensors["forward.y"])
    assert relative_error(out[:, :4], tensors["forward.out"]) < ONCE


@torch.no_grad()
def test_prediction_keeps_the_velocity(reference, objective, relative_error: Error) -> None:
    """Output to ends and back to velocity, as ODE samplers do it, at t = 0, 0.37 and 1."""
    model, tensors = reference
    for i, t in enumerate(tensors["forward.t"].tolist()):
        x, labels = tensors["forward.x"][i : i + 1], tensors["forward.y"][i : i + 1]
        time = torch.tensor([objective.model_time(t)])
        prediction = objective.prediction(model(x, time, labels), x, t)
        theirs = tensors["forward.out"][i : i + 1]
        assert relative_error(velocity_of(objective, prediction, t), theirs) < ONCE


@torch.no_grad()
def test_training_loss(reference, objective, relative_error: Error) -> None:
    model, tensors = reference
    labels, time = tensors["loss.y"], tensors["loss.t"]
    data, noise = tensors["loss.x_data"], tensors["loss.x_noise"]
    interpolant = objective.interpolant
    assert relative_error(interpolant.interpolate(data, noise, time), tensors["loss.x_t"]) < ONCE
    assert relative_error(interpolant.velocity(data, noise, time), tensors["loss.target"]) < ONCE

    batch = Batch(
        sample_counter=torch.arange(3),
        data=data,
        labels=labels,
        noise=noise,
        time=time,
        drop_label=torch.zeros(3, dtype=torch.bool),
    )
    terms = objective.loss(lambda x, time: model(x, time, labels), batch)
    torch.testing.assert_close(terms["loss"], tensors["loss.loss"], rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("sampler", "name"),
    [
        (Euler(steps=10), "euler10"),
        (Heun(steps=10), "heun210"),
        (RK4(steps=10), "rk410"),
        (Dopri5(rtol=1e-7, atol=1e-7), "dopri5"),
    ],
)
def test_ode_loop(reference, objective, relative_error: Error, sampler: Sampler, name: str) -> None:
    model, tensors = reference
    predict = predictor(
        model, objective, tensors["loss.y"], null_label=model.null_label, guidance=Guidance()
    )
    out = sampler.sample(
        predict,
        tensors["ode.x_0"],
        interpolant=objective.interpolant,
        draw_noise=lambda step: pytest.fail("an ODE sampler drew noise"),
    )
    assert relative_error(out, tensors[f"ode.{name}.out"]) < LOOP


def test_sde_loop(reference, objective, relative_error: Error) -> None:
    """19 steps with noise from t = 0 to 0.96, then one of 0.04 along the drift, without."""
    model, tensors = reference
    predict = predictor(
        model, objective, tensors["loss.y"], null_label=model.null_label, guidance=Guidance()
    )
    sampler = EulerMaruyama(steps=20, diffusion="sigma", last_step="mean", last_step_size=0.04)
    out = sampler.sample(
        predict,
        tensors["ode.x_0"],
        interpolant=objective.interpolant,
        draw_noise=lambda step: tensors["sde.noise"][step],
    )
    assert relative_error(out, tensors["sde.out"]) < LOOP


@torch.no_grad()
def test_guidance(reference, objective, relative_error: Error) -> None:
    model, tensors = reference
    t = tensors["cfg.t"][0].item()
    predict = predictor(
        model,
        objective,
        tensors["cfg.y"],
        null_label=model.null_label,
        guidance=Guidance(scale=4.0),
    )
    ours = velocity_of(objective, predict(tensors["cfg.x"], t), t)
    assert relative_error(ours, tensors["cfg.out_all_channels"]) < ONCE
