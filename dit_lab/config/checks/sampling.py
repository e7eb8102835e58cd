"""Checks of sampler, guidance, labels and weights against the trained model. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence

from omegaconf import OmegaConf

from dit_lab.config import search_path
from dit_lab.config.checks.coupling import check_coupled_sampling
from dit_lab.config.checks.few_step import check_guidance
from dit_lab.config.checks.guidance import check_kind
from dit_lab.config.checks.machine import check_compiler
from dit_lab.config.compatibility import samplers_of
from dit_lab.config.schema import RunConfig
from dit_lab.config.validate import to_plain
from dit_lab.core.errors import RequestError
from dit_lab.core.options import Component, target_of
from dit_lab.core.types import Shapes
from dit_lab.models.options import class_dropout
from dit_lab.runs.folder import RunFolder
from dit_lab.samplers.respacing import visited
from dit_lab.sampling.labels import check_labels
from dit_lab.training.average_names import averages_of
from dit_lab.training.post_hoc import PREFIX, average_file


def check_sampling(config: RunConfig, *, trained: RunConfig, run: RunFolder | None = None) -> None:
    """Check sampler, guidance and chosen weights, without the data. Raises RequestError.

    If `run` is given, its post-hoc averages are allowed as weights.
    """
    sampler, objective = config.sampler, trained.objective
    names = samplers_of(objective)
    ours = target_of(sampler).startswith("dit_lab.")
    if ours and target_of(sampler) not in _sampler_targets(names):
        chosen = config.choices
        raise RequestError(
            f"sampler={chosen['sampler']}: does not fit objective={chosen['objective']}; "
            f"allowed: auto, {', '.join(names)}"
        )
    check_guidance(config, objective, chosen=trained.choices["objective"])
    check_kind(config.guidance, trained)
    check_coupled_sampling(sampler, trained, config.choices)
    if hasattr(sampler, "spacing") and hasattr(objective, "num_timesteps"):
        visited(sampler.spacing, objective.num_timesteps, sampler.steps)
    interval = config.guidance.interval
    if len(interval) != 2 or not 0 <= interval[0] < interval[1] <= 1:
        raise RequestError(
            f"guidance.interval={interval}: expected [from, to] with 0 <= from < to <= 1 "
            "(0 is noise, 1 is data)"
        )
    _check_weights(config.sample.weights, trained, run)
    check_compiler(config)


def check_conditioning(config: RunConfig, shapes: Shapes, *, model: Component) -> None:
    """Check guidance and labels against the number of classes and channels. Raises RequestError."""
    guidance, num_classes = config.guidance, shapes.data.num_classes
    other = guidance.weak_run is not None or guidance.kind == "internal"
    away_from_null = guidance.scale != 1.0 and not other
    if guidance.weak_run is not None and guidance.scale == 1.0:
        raise RequestError(
            f"guidance.weak_run={guidance.weak_run}: guidance.scale=1 is no guidance; give a "
            "scale above 1"
        )
    if away_from_null and num_classes == 0:
        raise RequestError(
            f"guidance.scale={guidance.scale:g}: the model is unconditional (num_classes=0), so "
            "there is nothing to guide towards; use guidance.scale=1 or guidance.weak_run=RUN"
        )
    if away_from_null and class_dropout(model) == 0:
        here = "it is 0 here" if hasattr(model, "class_dropout_prob") else "this one has none"
        raise RequestError(
            f"guidance.scale={guidance.scale:g}: needs a model trained with "
            f"model.class_dropout_prob > 0 ({here}); use guidance.scale=1"
        )
    channels, allowed = guidance.channels, range(1, shapes.latent[0] + 1)
    if channels != "all" and (type(channels) is not int or channels not in allowed):
        raise RequestError(
            f"guidance.channels={channels}: expected all or a count from 1 to {shapes.latent[0]}"
        )
    if config.sample.labels is not None:
        try:
            check_labels(config.sample.labels, num_classes, shapes.data.class_names)
        except RequestError as refusal:
            raise RequestError(f"sample.{refusal}") from None


def _check_weights(weights: str, trained: RunConfig, run: RunFolder | None) -> None:
    if run is not None and weights.startswith(PREFIX):
        average_file(run, weights)
        return
    names = averages_of(target_of(trained.optimizer), trained.ema.decays)
    choices = ["raw", "ema", *(name.replace("ema-", "ema:", 1) for name in names)]
    if weights not in choices:
        after = ", or power:S, which dit-lab ema makes" if run is not None else ""
        raise RequestError(
            f"sample.weights={weights}: not kept; allowed: {', '.join(choices)}{after}"
        )


def _sampler_targets(names: Sequence[str]) -> list[str]:
    folder = search_path.packaged("conf") / "sampler"
    files = [folder / f"{name}.yaml" for name in names]  # user-defined ones have no file here
    return [to_plain(OmegaConf.load(file))["_target_"] for file in files if file.exists()]
