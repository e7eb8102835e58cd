"""Comparison with the original DiT implementation: equality of outputs, and speed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from torch import Tensor

from dit_lab.bench.device import Ticks
from dit_lab.bench.figures import BLOCKS, Versus, in_turn
from dit_lab.bench.noise import with_data
from dit_lab.bench.official import Official, as_it_runs, check_checkout
from dit_lab.bench.sampling import Sampling
from dit_lab.bench.training import Training, training_of
from dit_lab.build.parts import build_generator
from dit_lab.config.schema import RunConfig
from dit_lab.core import rng
from dit_lab.core.errors import RequestError
from dit_lab.core.options import target_of
from dit_lab.core.text import counted
from dit_lab.core.types import Batch, ModelCall, Progress, Shapes
from dit_lab.reproduce.drawing import fill
from dit_lab.sampling.generate import CHUNK_IMAGES

COMPARED_IMAGES, DRAWN_IMAGES = 32, 4
AS_THE_ORIGINAL = (
    "objective=ddpm", "sampler=ddpm", "sampler.steps=250", "guidance.scale=4",
    "guidance.channels=3", "precision=fp32",
)  # fmt: skip
"""The settings of its train.py and sample.py; overrides of a comparison come on top."""
ITS_DATA = ("dataset.num_classes=1000", "dataset.image_size=256")


@dataclass(frozen=True, kw_only=True, slots=True)
class Beside:
    """Results of the comparison; in pairs, the original is first."""

    loss_difference: float  # largest relative difference of an image's loss
    image_difference: float  # largest difference of latents, over their RMS
    drawn_steps: int
    training: Versus
    sampling: Versus  # per step and chunk


def as_the_original(overrides: Sequence[str]) -> list[str]:
    """Return the original's settings, with its data unless data are set, plus the overrides."""
    chooses_data = any(text.lstrip("+").startswith("dataset") for text in overrides)
    return [*AS_THE_ORIGINAL, *(() if chooses_data else ITS_DATA), *overrides]


def beside_official(config: RunConfig, path: Path, *, seconds: float) -> Beside:
    """Compare a config with a checkout of the original implementation.

    Args:
        config: the config, which must be one that the original supports.
        path: a checkout of facebookresearch/DiT.
        seconds: approximate time for training, and the same for sampling.

    Raises:
        RequestError: if the original does not support the config or cannot be imported.
    """
    check_checkout(path)
    config, shapes, _ = with_data(config)
    _check(config, shapes)
    with training_of(config, shapes) as training:
        official = Official(path, _arguments(config, shapes), training.weights())
        at_first = {name: weight.clone() for name, weight in training.weights().items()}
        drawing = Sampling(config, shapes)
        with torch.no_grad():
            fill(drawing.model)
        official.load(drawing.model.state_dict())
        loss, image = _loss_difference(drawing, official), _image_difference(drawing, official)
        sampling = _sampling(drawing, official, seconds)
        official.load(at_first)
        return Beside(
            loss_difference=loss,
            image_difference=image,
            drawn_steps=config.sampler.steps,
            training=_training(training, official, seconds),
            sampling=sampling,
        )


def _check(config: RunConfig, shapes: Shapes) -> None:
    """Raise RequestError if the original does not support the config."""
    model, (channels, height, width) = config.model, shapes.latent
    layers = tuple(getattr(model, name) for name in ("norm", "mlp", "rope", "qk_norm"))
    for wrong, why in (
        (layers != ("layer", "gelu", False, False), "model: only the original's layers"),
        (height != width, f"dataset.image_size: {height} x {width} latents; it needs square ones"),
        (channels < 3, f"dataset: {counted(channels, 'channel')}; it guides 3 channels"),
        (not shapes.data.num_classes, "dataset.num_classes: it requires classes"),
        (model.class_dropout_prob == 0, "model.class_dropout_prob: it requires the null label"),
        (config.guidance.scale == 1, "guidance.scale: the original always uses guidance"),
        (config.guidance.channels != 3, "guidance.channels: the original guides 3"),
    ):
        if wrong:
            raise RequestError(f"bench official: {why}")
    for group, target in (
        ("objective", "dit_lab.objectives.ddpm.DDPM"),
        ("sampler", "dit_lab.samplers.ancestral.DDPMSampler"),
    ):
        if target_of(getattr(config, group)) != target:
            raise RequestError(f"bench official: {group}: the original has only {group}=ddpm")


def _arguments(config: RunConfig, shapes: Shapes) -> dict[str, Any]:
    """Return the arguments of the original's model."""
    names = ("patch_size", "hidden_size", "depth", "num_heads", "mlp_ratio", "class_dropout_prob")
    channels, side, _ = shapes.latent
    return {
        **{name: getattr(config.model, name) for name in names},
        "input_size": side,
        "in_channels": channels,
        "num_classes": shapes.data.num_classes,
        "learn_sigma": config.objective.learn_sigma,
    }


def _drawn(drawing: Sampling, count: int, purpose: str) -> Tensor:
    shape = drawing.parts.shapes.latent
    return rng.normal(0, purpose, torch.arange(count), shape).to(drawing.device)


def _labels(drawing: Sampling, count: int) -> Tensor:
    return torch.arange(count, device=drawing.device) % drawing.parts.shapes.data.num_classes


@torch.no_grad()
def _loss_difference(drawing: Sampling, official: Official) -> float:
    """Return the largest relative difference of losses for the same images, noise and times."""
    count = COMPARED_IMAGES
    data, noise = (_drawn(drawing, count, purpose) for purpose in ("bench/data", "bench/noise"))
    labels = _labels(drawing, count)
    uniform = (torch.arange(count, device=drawing.device) + 0.5) / count
    objective = drawing.parts.objective
    batch = Batch(
        sample_counter=torch.arange(count),
        data=data,
        labels=labels,
        noise=noise,
        time=objective.time_from_uniform(uniform),
        drop_label=torch.zeros_like(labels, dtype=torch.bool),
    )
    predict = ModelCall(model=drawing.labelled, labels=labels, progress=Progress())
    ours = objective.loss(predict, batch)["loss"]
    theirs = official.losses(data, labels, batch.time, noise)
    return ((ours - theirs).abs() / theirs.abs()).max().item()


@torch.no_grad()
def _image_difference(drawing: Sampling, official: Official) -> float:
    """Return the largest difference of latents, divided by their root mean square.

    Both implementations use the same noise at every step.
    """
    parts, count = drawing.parts, DRAWN_IMAGES
    noise, labels = _drawn(drawing, count, "bench/start"), _labels(drawing, count)
    generator = build_generator(parts, check_stop=lambda: None)

    def both_halves(step: int) -> Tensor:
        """Draw noise as the original does, for guided images and their null-label copies."""
        return torch.randn(2 * count, *noise.shape[1:], device=noise.device)[:count]

    torch.manual_seed(0)
    ours = generator.sampler.sample(
        generator.predictor(drawing.labelled, labels),
        noise,
        interpolant=parts.objective.interpolant,
        draw_noise=both_halves,
    )
    torch.manual_seed(0)
    (theirs,) = deque(_its_samples(drawing, official, noise, labels), maxlen=1)
    return ((ours - theirs).abs().max() / theirs.square().mean().sqrt()).item()


def _its_samples(
    drawing: Sampling, official: Official, noise: Tensor, labels: Tensor
) -> Iterator[Tensor]:
    config = drawing.parts.config
    return official.samples(
        noise,
        labels,
        steps=config.sampler.steps,
        scale=config.guidance.scale,
        null_label=drawing.parts.shapes.data.num_classes,
    )


def _training(training: Training, official: Official, seconds: float) -> Versus:
    """Time interleaved blocks of training steps."""
    batches = training.prepared()
    count = training.steps_within(seconds / BLOCKS)
    official.train_steps(batches, 2)

    def theirs() -> float:
        with as_it_runs():
            return median(official.train_steps(batches, count))

    return in_turn(theirs, lambda: training.block(count))


def _sampling(drawing: Sampling, official: Official, seconds: float) -> Versus:
    """Time interleaved blocks of the sampler's first steps."""
    noise = _drawn(drawing, CHUNK_IMAGES, "bench/start")
    labels = _labels(drawing, CHUNK_IMAGES)
    count = drawing.steps_within(seconds / BLOCKS)

    def theirs() -> float:
        ticks = Ticks(drawing.device)
        with as_it_runs():
            for _ in islice(_its_samples(drawing, official, noise, labels), count + 1):
                ticks.take()
        return mean(ticks.seconds())

    return in_turn(theirs, lambda: mean(drawing.steps(count)))
