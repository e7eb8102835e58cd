"""Checks of combinations of settings, before anything slow is imported."""

from __future__ import annotations

from dit_lab.codecs.facts import IDENTITY
from dit_lab.config.checks.coupling import check_coupled_data, check_coupling
from dit_lab.config.checks.data import check_declarations, check_images, read_facts
from dit_lab.config.checks.few_step import check_needs
from dit_lab.config.checks.machine import AUTO, check_float8, check_processes
from dit_lab.config.checks.methods import check_methods
from dit_lab.config.checks.metrics import check_metrics
from dit_lab.config.checks.optimizers import check_optimizer_settings
from dit_lab.config.checks.own import check_own_parts, latents_of
from dit_lab.config.checks.sampling import check_conditioning, check_sampling
from dit_lab.config.compatibility import samplers_of
from dit_lab.config.schema import EMA, RunConfig, Training
from dit_lab.core.errors import RequestError
from dit_lab.core.options import Component, target_of
from dit_lab.core.types import Shapes
from dit_lab.data.split_folders import NOW
from dit_lab.tracking.addresses import check_uri
from dit_lab.training.average_names import averages_of
from dit_lab.training.power import is_width


def check_settings(config: RunConfig) -> None:
    """Check a training configuration without its data. Raises RequestError."""
    check_processes(config)
    check_needs(config)
    check_float8(config)
    _check_batch(config)
    _check_checkpoints(config.training)
    check_optimizer_settings(config)
    _check_averages(config.ema, config.optimizer)
    _check_heads(config.model)
    check_methods(config)
    check_coupling(config)
    check_sampling(config, trained=config)
    if config.tracking.backend == "mlflow":
        check_uri(config.tracking.uri)


def check_data(config: RunConfig, *, reading: int = NOW) -> Shapes:
    """Read the data's facts and check the configuration against them. Raises RequestError."""
    facts = read_facts(config, reading=reading)
    check_declarations(config.dataset, facts)
    shapes = Shapes(facts, latents_of(config.codec, facts))
    check_own_parts(config, shapes)
    check_model(config, shapes)
    check_likelihood(config)
    check_metrics(config, facts)
    check_coupled_data(config, shapes)
    check_images(config)
    return shapes


def check_model(config: RunConfig, shapes: Shapes) -> None:
    """Check the model, the objective and guidance against the shapes. Raises RequestError."""
    if (patch := getattr(config.model, "patch_size", None)) is not None:
        _check_patch(patch, shapes.latent)
    _check_direction(config.objective, shapes.latent)
    check_conditioning(config, shapes, model=config.model)


def _check_batch(config: RunConfig) -> None:
    training, processes = config.training, config.distributed.num_processes
    parts = training.accumulation * (1 if processes == AUTO else processes)
    if training.global_batch_size % parts:
        raise RequestError(
            f"training.global_batch_size={training.global_batch_size}: not divisible by "
            f"training.accumulation x distributed.num_processes = {parts}"
        )


def _check_checkpoints(training: Training) -> None:
    kept, every = training.keep_every_steps, training.checkpoint_every_steps
    if not kept:
        return
    if training.keep_last is None and training.keep_finished is None:
        raise RequestError(
            f"training.keep_every_steps={kept}: has no effect while all checkpoints are kept; "
            "also give training.keep_last or training.keep_finished"
        )
    if not every or kept % every:
        raise RequestError(
            f"training.keep_every_steps={kept}: must be a multiple of "
            f"training.checkpoint_every_steps={every}"
        )


def _check_averages(ema: EMA, optimizer: Component) -> None:
    decays, stds, every = ema.decays, ema.power_stds, ema.snapshot_every_steps
    kept = averages_of(target_of(optimizer), decays)
    if not kept or not all(0 <= decay < 1 for decay in decays):
        raise RequestError(f"ema.decays={decays}: expected one or more numbers from 0 to below 1")
    if stds and (len(stds) < 2 or len(set(stds)) < len(stds) or not all(map(is_width, stds))):
        raise RequestError(
            f"ema.power_stds={stds}: expected none, or two or more different numbers above 0 and "
            "below 0.2887 (1/sqrt(12)), such as [0.05,0.1]"
        )
    if stds and not every:
        raise RequestError(
            f"ema.snapshot_every_steps=0: post-hoc EMA with ema.power_stds={stds} needs snapshots; "
            "give a number of steps between them"
        )
    if every and not stds:
        raise RequestError(
            f"ema.snapshot_every_steps={every}: there are no averages to keep, since "
            "ema.power_stds is empty; use ema.power_stds=[0.05,0.1], or 0"
        )


def _check_heads(model: Component) -> None:
    if not hasattr(model, "num_heads") or not hasattr(model, "hidden_size"):
        return  # a user-defined architecture
    width, heads = model.hidden_size, model.num_heads
    if width % 4:
        raise RequestError(
            f"model.hidden_size={width}: the position embedding needs a multiple of 4; "
            f"use {width // 4 * 4 + 4}"
        )
    if width % heads:
        fitting = [n for n in range(1, width + 1) if width % n == 0 and width // n >= 8]
        raise RequestError(
            f"model.num_heads={heads}: does not divide model.hidden_size={width}; "
            f"use {', '.join(map(str, fitting))}"
        )


def _check_patch(patch: int, latent: tuple[int, int, int]) -> None:
    _, height, width = latent
    if height % patch or width % patch:
        common = [n for n in range(1, min(height, width) + 1) if not (height % n or width % n)]
        raise RequestError(
            f"model.patch_size={patch}: does not divide {height} x {width}, what the model sees; "
            f"use {', '.join(map(str, common))}"
        )


def _check_direction(objective: Component, latent: tuple[int, int, int]) -> None:
    weight = getattr(objective, "direction_weight", 0.0)
    if weight and latent[0] == 1:
        raise RequestError(
            f"objective.direction_weight={weight:g}: needs latents or images of several channels, "
            "not one; use 0"
        )


def check_likelihood(config: RunConfig) -> None:
    """Raise RequestError for likelihoods of latents: bits per dimension need a model of pixels."""
    images, codec = config.evaluation.likelihood_images, config.codec
    if images and target_of(codec) != IDENTITY:
        raise RequestError(
            f"evaluation.likelihood_images={images}: bits per dimension need the density of "
            "pixels, not of latents; use 0, or codec=identity"
        )
    if images and "euler" not in samplers_of(config.objective):
        raise RequestError(
            f"evaluation.likelihood_images={images}: objective={config.choices['objective']} has "
            "no velocity to integrate; use 0"
        )
