"""The lab's DDPM, DDIM and Euler loops against diffusers' schedulers, with the same fake model.

Both use the same draws. Tolerance: both step in float32, and diffusers' tables are float32; over 20
steps the difference is about 1e-5 of the result's RMS (bound 1e-4, as for the other reference
loops).
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dit_lab.objectives.ddpm import DDPM
from dit_lab.objectives.rectified_flow import RectifiedFlow
from dit_lab.samplers.ancestral import DDIMSampler, DDPMSampler
from dit_lab.samplers.guidance import Guidance, predictor
from dit_lab.samplers.ode import Euler
from dit_lab.samplers.respacing import even, stride

LOOP = 1e-4
SHAPE = (4, 3, 8, 8)
LABELS = torch.zeros(SHAPE[0], dtype=torch.int64)
THEIR_KIND = {"noise": "epsilon", "data": "sample", "v": "v_prediction"}
Error = Callable[[Tensor, Tensor], float]


def draw(step: int) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(100 + step))


X = draw(-1)


def model(x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
    """Smooth in x and time, of size 1; the last channels for a variance are in [-1, 1]."""
    phase = (time / 200).reshape(-1, 1, 1, 1)
    return 0.6 * torch.tanh(x.roll(1, -1) + phase.sin()) + 0.3 * x * phase.cos()


def model_with_variance(x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
    return torch.cat([model(x, time), torch.sin(x + (time / 300).reshape(-1, 1, 1, 1))], dim=1)


def ddpm_scheduler(kind: str, timesteps: list[int], variance_type: str):  # noqa: ANN201
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler(
        beta_schedule="linear",
        prediction_type=THEIR_KIND[kind],
        variance_type=variance_type,
        clip_sample=False,
    )
    scheduler.set_timesteps(timesteps=timesteps[::-1])
    return scheduler


@pytest.mark.parametrize("kind", THEIR_KIND)
@pytest.mark.parametrize("variance", ["learned", "small", "large"])
@pytest.mark.parametrize("steps", [20, 7])
def test_ddpm_loop(
    steps: int, variance: str, kind: str, relative_error: Error, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every prediction and variance, at our even timesteps."""
    learned = variance == "learned"
    network = model_with_variance if learned else model
    objective = DDPM(
        prediction=kind, learn_sigma=learned, fixed_variance=None if learned else variance
    )
    ours = DDPMSampler(steps=steps).sample(
        predictor(network, objective, LABELS, null_label=None, guidance=Guidance()),
        X,
        interpolant=objective.interpolant,
        draw_noise=draw,
    )

    timesteps = even(1000, steps)
    types = {"learned": "learned_range", "small": "fixed_small", "large": "fixed_large"}
    scheduler = ddpm_scheduler(kind, timesteps, types[variance])
    x = X
    for step, timestep in enumerate(reversed(timesteps)):
        monkeypatch.setattr(
            "diffusers.schedulers.scheduling_ddpm.randn_tensor",
            lambda *_, step=step, **__: draw(step),
        )
        output = network(x, torch.full((SHAPE[0],), float(timestep)))
        x = scheduler.step(output, timestep, x).prev_sample
    assert relative_error(ours, x) < LOOP


@pytest.mark.parametrize("kind", THEIR_KIND)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_loop(eta: float, kind: str, relative_error: Error) -> None:
    """Every prediction, at the timesteps 0, 50, ..., 950, the ones whose steps diffusers knows."""
    from diffusers import DDIMScheduler

    objective = DDPM(prediction=kind, learn_sigma=False)
    ours = DDIMSampler(steps=20, eta=eta).sample(
        predictor(model, objective, LABELS, null_label=None, guidance=Guidance()),
        X,
        interpolant=objective.interpolant,
        draw_noise=draw,
    )
    scheduler = DDIMScheduler(
        beta_schedule="linear",
        prediction_type=THEIR_KIND[kind],
        clip_sample=False,
        set_alpha_to_one=True,
    )
    scheduler.set_timesteps(20)
    assert scheduler.timesteps.tolist() == stride(1000, 20)[::-1]
    x = X
    for step, timestep in enumerate(scheduler.timesteps.tolist()):
        output = model(x, torch.full((SHAPE[0],), float(timestep)))
        x = scheduler.step(output, timestep, x, eta=eta, variance_noise=draw(step)).prev_sample
    assert relative_error(ours, x) < LOOP


@pytest.mark.parametrize(("time_grid", "time_shift"), [("uniform", 1.0), ("shifted", 3.0)])
def test_euler_loop(time_grid: str, time_shift: float, relative_error: Error) -> None:
    """Its sigma is our 1 - t, its velocity points from data to noise, and its time is 1000 sigma;
    its shift is ours."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    objective = RectifiedFlow()
    ours = Euler(steps=20, time_grid=time_grid, time_shift=time_shift).sample(
        predictor(model, objective, LABELS, null_label=None, guidance=Guidance()),
        X,
        interpolant=objective.interpolant,
        draw_noise=draw,
    )
    scheduler = FlowMatchEulerDiscreteScheduler(shift=time_shift)
    scheduler.set_timesteps(sigmas=[1 - k / 20 for k in range(20)])
    x = X
    for timestep in scheduler.timesteps:
        time = torch.full((SHAPE[0],), 1000 - timestep.item())
        x = scheduler.step(-model(x, time), timestep, x).prev_sample
    assert relative_error(ours, x) < LOOP
