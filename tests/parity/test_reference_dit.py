"""The lab's DiT and DDPM against outputs of the original implementation, with random weights.

Tolerances: both compute in float32, whose rounding grows to about 1e-6 of the output's RMS in one
evaluation (bound 1e-5) and to about 1e-5 over a sampling loop (bound 1e-4).
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dit_lab.core.types import Batch, Predict
from dit_lab.models.dit import DiT
from dit_lab.models.embeddings import sincos_positions
from dit_lab.objectives.ddpm import DDPM
from dit_lab.samplers.ancestral import DDIMSampler, DDPMSampler
from dit_lab.samplers.guidance import Guidance, guide, predictor
from dit_lab.samplers.respacing import even, stride

ONCE, LOOP = 1e-5, 1e-4
Error = Callable[[Tensor, Tensor], float]


@pytest.fixture(scope="module")
def reference(load_reference) -> tuple[DiT, dict[str, Tensor]]:
    return load_reference("dit_tiny")


@pytest.fixture(scope="module")
def predict(reference) -> Predict:
    model, tensors = reference
    return predictor(
        model, DDPM(), tensors["loss.y"], null_label=model.null_label, guidance=Guidance()
    )


def no_noise(step: int) -> Tensor:
    raise AssertionError("a deterministic sampler drew noise")


@torch.no_grad()
def test_forward(reference, relative_error: Error) -> None:
    model, tensors = reference
    out = model(tensors["forward.x"], tensors["forward.t"], tensors["forward.y"])
    assert relative_error(out, tensors["forward.out"]) < ONCE


def test_positions_are_the_original_table(reference) -> None:
    model, _ = reference
    ours = sincos_positions(model.pos_embed.shape[2], *model.grid)
    # The table is float64 rounded once on both sides; sine and cosine may differ in the last bit.
    torch.testing.assert_close(ours, model.pos_embed[0], rtol=0, atol=1e-7)


@torch.no_grad()
@pytest.mark.parametrize("term", ["mse", "vb", "loss"])
def test_training_loss(reference, term: str) -> None:
    """Timesteps 0 (the decoder's likelihood), 300 and 999, one image each."""
    model, tensors = reference
    labels = tensors["loss.y"]
    batch = Batch(
        sample_counter=torch.arange(3),
        data=tensors["loss.x_start"],
        labels=labels,
        noise=tensors["loss.noise"],
        time=tensors["loss.t"],
        drop_label=torch.zeros(3, dtype=torch.bool),
    )
    seen = []

    def call(x: Tensor, time: Tensor) -> Tensor:
        seen.append(x)
        return model(x, time, labels)

    terms = DDPM().loss(call, batch)
    torch.testing.assert_close(seen[0], tensors["loss.x_t"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(terms[term], tensors[f"loss.{term}"], rtol=1e-5, atol=0)


@torch.no_grad()
def test_posterior(reference, relative_error: Error) -> None:
    model, tensors = reference
    objective, chain = DDPM(), DDPM().interpolant
    for i, timestep in enumerate(tensors["loss.t"].tolist()):
        x = tensors["posterior.x_t"][i : i + 1]
        t = chain.flow_time(timestep)
        time = torch.tensor([objective.model_time(t)])
        assert time.item() == timestep
        output = model(x, time, tensors["loss.y"][i : i + 1])
        prediction = objective.prediction(output, x, t)
        mean = chain.posterior_mean(prediction.data, x, timestep)
        log_variance = chain.log_variance(prediction.variance_fraction, x, timestep)
        for name, ours in {
            "pred_xstart": prediction.data,
            "mean": mean,
            "log_variance": log_variance,
        }.items():
            theirs = tensors[f"posterior.{name}"][i : i + 1]
            assert relative_error(ours, theirs) < ONCE, (name, timestep)


def test_visited_timesteps(reference) -> None:
    _, tensors = reference
    assert stride(1000, 10) == tensors["ddim10.timesteps"].tolist()
    assert even(1000, 8) == tensors["ddpm8.timesteps"].tolist()


def test_ddim_loop(reference, predict: Predict, relative_error: Error) -> None:
    _, tensors = reference
    sampler = DDIMSampler(steps=10)
    out = sampler.sample(
        predict, tensors["ddim10.x_T"], interpolant=DDPM().interpolant, draw_noise=no_noise
    )
    assert relative_error(out, tensors["ddim10.out"]) < LOOP


def test_ddpm_loop(reference, predict: Predict, relative_error: Error) -> None:
    _, tensors = reference
    sampler = DDPMSampler(steps=8)
    draws = tensors["ddpm8.noise"]
    out = sampler.sample(
        predict,
        tensors["ddpm8.x_T"],
        interpolant=DDPM().interpolant,
        draw_noise=lambda step: draws[step],
    )
    assert relative_error(out, tensors["ddpm8.out"]) < LOOP


@torch.no_grad()
@pytest.mark.parametrize(("channels", "name"), [(3, "first_three_channels"), (4, "all_channels")])
def test_guidance(reference, relative_error: Error, channels: int, name: str) -> None:
    """The guided raw output, and the same through the predictor that samplers use.

    The original repeats the guided half for the unguided images: its file holds 2N channels' worth
    of noise, then the variance of the conditional half.
    """
    model, tensors = reference
    x, labels, time = tensors["cfg.x"], tensors["cfg.y"], tensors["cfg.t"]
    nulls = torch.full_like(labels, model.null_label)
    theirs = tensors[f"cfg.out_{name}"]
    ours = guide(model(x, time, labels), model(x, time, nulls), scale=4.0, channels=channels)
    assert relative_error(ours, theirs) < ONCE

    guided = predictor(
        model,
        DDPM(),
        labels,
        null_label=model.null_label,
        guidance=Guidance(scale=4.0, channels=channels),
    )(x, DDPM().interpolant.flow_time(700))
    assert relative_error(guided.noise, theirs[:, :4]) < ONCE
    assert relative_error(2 * guided.variance_fraction - 1, theirs[:, 4:]) < ONCE
