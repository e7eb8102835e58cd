"""Probes of samplers. The weights are random, fixed and nonzero.

    images: mean, deviation and a projection of each image, by the configured sampler and guidance
    evaluations, times: NFE of an image, and the times of the model's evaluations
    guided: images by Heun's method with guidance, if the model has a null label
    renewed: images by `jump` with `renew_noise`, and none of the others, for few-step objectives
    ddim: images by DDIM
    stochastic: images by DDPM for discrete diffusion, else by Euler-Maruyama; none for couplings

With discrete diffusion at high noise, such weights predict data hundreds of times too large;
`ddim` and `stochastic` clip it there.

Shapes: N images, C channels, H x W cells.
"""

from __future__ import annotations

import math
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from dit_lab.build.parts import Parts, build_generator, build_model, labelled_call, null_label
from dit_lab.config.checks.coupling import is_coupled
from dit_lab.config.compatibility import samplers_of
from dit_lab.core import rng
from dit_lab.core.calls import Asked
from dit_lab.core.discrete_diffusion import DiscreteDiffusion
from dit_lab.core.types import LabelledCall, Sampler
from dit_lab.samplers.ancestral import DDIMSampler, DDPMSampler
from dit_lab.samplers.guidance import Guidance
from dit_lab.samplers.jump import Jump
from dit_lab.samplers.ode import Heun
from dit_lab.samplers.sde import EulerMaruyama
from dit_lab.sampling.generate import CHUNK_IMAGES, EvaluationCount, Generator
from dit_lab.training.stop import StopSignal

IMAGES = 8
MOST_TIMES = 25  # that are recorded of a sampler's time grid
STEPS = 4
SCALE = 2.0


@torch.no_grad()
def by_the_sampler(parts: Parts, stop: StopSignal) -> dict[str, Any]:
    fixed, passes, times = fixed_call(parts), EvaluationCount(), list[float]()

    def call(x: Tensor, time: Tensor, labels: Tensor, **asked: Unpack[Asked]) -> Tensor:
        passes(len(x))
        times.append(time[0].item())
        return fixed(x, time, labels, **asked)

    images = _images(build_generator(parts, check_stop=stop.check), call)
    chosen = torch.linspace(0, len(times) - 1, min(len(times), MOST_TIMES)).round().long().tolist()
    return {
        "images": images,
        "evaluations": passes.per_image(CHUNK_IMAGES),
        "times": [times[index] for index in chosen],
    }


@torch.no_grad()
def by_other_samplers(parts: Parts, stop: StopSignal) -> dict[str, Any]:
    fixed = fixed_call(parts)
    return {
        name: _images(
            build_generator(
                parts, check_stop=stop.check, sampler=sampler, guidance=Guidance(scale=scale)
            ),
            fixed,
        )
        for name, (sampler, scale) in _others(parts).items()
    }


def _others(parts: Parts) -> dict[str, tuple[Sampler, float]]:
    """Return the samplers of the probes, each with a guidance scale, by name."""
    if samplers_of(parts.config.objective)[0] == "jump":
        return {"renewed": (Jump(steps=STEPS, renew_noise=True), 1.0)}
    clip = isinstance(parts.objective.interpolant, DiscreteDiffusion)
    chosen: dict[str, tuple[Sampler, float]] = {
        "ddim": (DDIMSampler(steps=STEPS, clip_data=clip), 1.0)
    }
    if null_label(parts) is not None:
        chosen["guided"] = (Heun(steps=STEPS), SCALE)
    if not is_coupled(parts.config):
        chain = DDPMSampler(steps=STEPS, clip_data=clip)
        chosen["stochastic"] = (chain if clip else EulerMaruyama(steps=STEPS), 1.0)
    return chosen


def _images(generator: Generator, model: LabelledCall) -> list[float]:
    """Return mean, deviation and a projection of each of the first IMAGES latents, flattened."""
    latents = generator.latents(model, first=0, seed=0)[:IMAGES].cpu().double().flatten(1)
    wave = torch.cos(torch.arange(latents.shape[1], dtype=torch.float64))
    found = [latents.mean(1), latents.std(1), latents @ wave / math.sqrt(len(wave))]
    numbers: list[float] = torch.stack(found, 1).flatten().tolist()
    return numbers


def fixed_call(parts: Parts) -> LabelledCall:
    """Return the model as a function, with the fixed weights of `fill`."""
    model = build_model(parts)
    fill(model)
    return labelled_call(parts, model.to(parts.device).eval())


@torch.no_grad()
def fill(model: nn.Module) -> None:
    """Set every parameter to fixed random values, scaled to preserve the size of activations."""
    for name, weight in model.named_parameters():
        fan_in = math.prod(weight.shape[1:]) if weight.dim() > 1 else 16
        drawn = rng.normal(0, f"probe/{name}", torch.zeros(1).long(), tuple(weight.shape))[0]
        weight.copy_(drawn / math.sqrt(fan_in))
