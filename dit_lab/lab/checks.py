"""Combinations that cannot work, refused in one line before anything slow is imported."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from dit_lab.codecs.facts import IDENTITY, codec_facts
from dit_lab.lab import resources
from dit_lab.lab.averages import PREFIX, made_average
from dit_lab.lab.compatibility import samplers_for
from dit_lab.lab.coupling_checks import (
    check_coupled_data,
    check_coupled_sampling,
    check_coupling,
)
from dit_lab.lab.data_checks import check_declarations, check_images, options_of, read_facts
from dit_lab.lab.distributed import AUTO, check_processes
from dit_lab.lab.metric_checks import check_metrics
from dit_lab.lab.precision_checks import check_compiler, check_float8
from dit_lab.lab.trust import load_component
from dit_lab.lab.typed import to_plain
from dit_lab.runs import RunFolder
from dit_lab.samplers.respacing import visited
from dit_lab.tracking.mlflow_store import check_uri
from dit_lab.training.power import is_width
from dit_lab.types import DataFacts, RequestError

Config = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Shapes:
    """What the data and the codec tell the model."""

    data: DataFacts
    latent: tuple[int, int, int]  # channels, height, width


def check_settings(config: Config) -> None:
    """What a training configuration shows without its data. Raises RequestError."""
    _check_name(config["name"])
    check_processes(config)
    check_float8(config)
    _check_batch(config)
    _check_checkpoints(config["training"])
    _check_optimizer(config)
    _check_averages(config["ema"])
    _check_heads(config["model"])
    check_coupling(config)
    check_sampling(config, trained=config)
    if config["tracking"]["backend"] == "mlflow":
        check_uri(config["tracking"]["uri"])


def check_data(config: Config) -> Shapes:
    """Look at the data's facts and check the model against them. Raises RequestError."""
    facts = read_facts(config)
    check_declarations(config["dataset"], facts)
    latent = codec_facts(
        config["codec"]["_target_"],
        options_of(config["codec"]),
        channels=facts.channels,
        height=facts.height,
        width=facts.width,
    )
    shapes = Shapes(facts, latent)
    check_model(config, shapes)
    check_likelihood(config)
    check_metrics(config, facts)
    check_coupled_data(config, shapes)
    check_images(config)
    return shapes


def check_model(config: Config, shapes: Shapes) -> None:
    """The model, the objective and the guidance against the shapes. Raises RequestError."""
    _check_patch(config["model"]["patch_size"], shapes.latent)
    _check_direction(config["objective"], shapes.latent)
    check_conditioning(config, shapes, model=config["model"])


def check_root(config: Config) -> None:
    """Refuse a paths.root that cannot be written to or lies among the data."""
    root, data = config["paths"]["root"], config["dataset"].get("root")
    if data and Path(root).is_relative_to(data):
        raise RequestError(
            f"paths.root={root}: lies inside dataset.root={data}, so results would count as data; "
            "choose another"
        )
    check_writable("paths.root", Path(root))


def check_writable(key: str, path: Path) -> None:
    """Refuse a folder that cannot be written to, by trying. Leaves nothing behind."""
    existing = next(parent for parent in (path, *path.parents) if parent.exists())
    if not existing.is_dir():
        raise RequestError(f"{key}={path}: {existing} is a file; choose a folder")
    try:
        with tempfile.TemporaryDirectory(dir=existing, prefix=".dit-lab-"):
            pass
    except OSError as error:
        raise RequestError(
            f"{key}={path}: cannot write in {existing} ({error.strerror}); choose another"
        ) from None


def check_new(what: str, out: Path) -> None:
    """Refuse a path where something is already, or where nothing can be made; `what` it was given
    as, such as "--out "."""
    if out.exists():
        raise RequestError(f"{what}{out}: exists already; choose another name, or move it away")
    check_parent(what, out)


def check_parent(what: str, out: Path) -> None:
    """Refuse a file in a folder that does not exist or cannot be written to."""
    parent = out.absolute().parent
    if not parent.is_dir():
        raise RequestError(f"{what}{out}: the folder {parent} does not exist; create it first")
    if not os.access(parent, os.W_OK):
        raise RequestError(f"{what}{out}: no right to write in {parent}; choose another place")


def check_sampling(config: Config, *, trained: Config, run: RunFolder | None = None) -> None:
    """Sampler, guidance and chosen weights against what was trained, without the data.

    Averages that were made after training are those of `run`, if one is given.
    """
    sampler, objective = config["sampler"], trained["objective"]
    names = samplers_for(
        objective["_target_"],
        lambda name: load_component(
            name, trusted_modules=config["trusted_modules"], key="objective._target_"
        ),
    )
    ours = sampler["_target_"].startswith("dit_lab.")
    if ours and sampler["_target_"] not in _sampler_targets(names):
        chosen = config["choices"]
        raise RequestError(
            f"sampler={chosen['sampler']}: does not fit objective={chosen['objective']}; "
            f"allowed: auto, {', '.join(names)}"
        )
    check_coupled_sampling(sampler, trained, config["choices"])
    if "spacing" in sampler and "num_timesteps" in objective:
        visited(sampler["spacing"], objective["num_timesteps"], sampler["steps"])
    interval = config["guidance"]["interval"]
    if len(interval) != 2 or not 0 <= interval[0] < interval[1] <= 1:
        raise RequestError(
            f"guidance.interval={interval}: expected [from, to] with 0 <= from < to <= 1 "
            "(0 is noise, 1 is data)"
        )
    _check_weights(config["sample"]["weights"], trained["ema"]["decays"], run)
    check_compiler(config)


def check_conditioning(config: Config, shapes: Shapes, *, model: Config) -> None:
    """Guidance and labels against the number of classes and channels."""
    guidance, num_classes = config["guidance"], shapes.data.num_classes
    away_from_null = guidance["scale"] != 1.0 and guidance["weak_run"] is None
    if guidance["weak_run"] is not None and guidance["scale"] == 1.0:
        raise RequestError(
            f"guidance.weak_run={guidance['weak_run']}: guidance.scale=1 is no guidance; give a "
            "scale above 1"
        )
    if away_from_null and num_classes == 0:
        raise RequestError(
            f"guidance.scale={guidance['scale']:g}: the model is unconditional (num_classes=0), so "
            "there is nothing to guide towards; use guidance.scale=1 or guidance.weak_run=RUN"
        )
    if away_from_null and model["class_dropout_prob"] == 0:
        raise RequestError(
            f"guidance.scale={guidance['scale']:g}: needs a model trained with "
            "model.class_dropout_prob > 0 (it is 0 here); use guidance.scale=1"
        )
    channels, allowed = guidance["channels"], range(1, shapes.latent[0] + 1)
    if channels != "all" and channels not in allowed:
        raise RequestError(
            f"guidance.channels={channels}: expected all or a count from 1 to {shapes.latent[0]}"
        )
    labels = config["sample"]["labels"] or []
    wrong = [label for label in labels if not 0 <= label < max(1, num_classes)]
    if wrong:
        raise RequestError(
            f"sample.labels={labels}: {wrong[0]} is no class; "
            f"allowed: 0 to {max(1, num_classes) - 1}"
        )


def _check_weights(weights: str, decays: Sequence[float], run: RunFolder | None) -> None:
    if run is not None and weights.startswith(PREFIX):
        made_average(run, weights)
        return
    choices = ["raw", "ema", *(f"ema:{decay}" for decay in decays)]
    if weights not in choices:
        after = ", or power:S, which dit-lab ema makes" if run is not None else ""
        raise RequestError(
            f"sample.weights={weights}: not kept; allowed: {', '.join(choices)}{after}"
        )


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[\w+=@,-][\w .+=@,-]*", name):
        raise RequestError(
            f"name={name}: names a folder; use letters, digits, spaces and any of . _ + = @ , -"
        )


def _check_batch(config: Config) -> None:
    training, processes = config["training"], config["distributed"]["num_processes"]
    parts = training["accumulation"] * (1 if processes == AUTO else processes)
    if training["global_batch_size"] % parts:
        raise RequestError(
            f"training.global_batch_size={training['global_batch_size']}: not divisible by "
            f"training.accumulation x distributed.num_processes = {parts}"
        )


def _check_checkpoints(training: Config) -> None:
    kept, every = training["keep_every_steps"], training["checkpoint_every_steps"]
    if not kept:
        return
    if training["keep_last"] is None:
        raise RequestError(
            f"training.keep_every_steps={kept}: all checkpoints are kept; give training.keep_last, "
            "the number of others to keep, too"
        )
    if not every or kept % every:
        raise RequestError(
            f"training.keep_every_steps={kept}: must be a multiple of "
            f"training.checkpoint_every_steps={every}"
        )


def _check_optimizer(config: Config) -> None:
    betas = config["optimizer"].get("betas")
    if betas is not None and (len(betas) != 2 or not all(0 <= beta < 1 for beta in betas)):
        raise RequestError(f"optimizer.betas={betas}: expected two numbers from 0 to below 1")


def _check_averages(ema: Config) -> None:
    decays, stds, every = ema["decays"], ema["power_stds"], ema["snapshot_every_steps"]
    if not decays or not all(0 <= decay < 1 for decay in decays):
        raise RequestError(f"ema.decays={decays}: expected one or more numbers from 0 to below 1")
    if stds and (len(stds) < 2 or len(set(stds)) < len(stds) or not all(map(is_width, stds))):
        raise RequestError(
            f"ema.power_stds={stds}: expected none, or two or more different numbers above 0 and "
            "below 0.2887 (1/sqrt(12)), such as [0.05,0.1]"
        )
    if stds and not every:
        raise RequestError(
            f"ema.snapshot_every_steps=0: averages of ema.power_stds={stds} are only good for what "
            "is made of their snapshots; give a number of steps between these"
        )
    if every and not stds:
        raise RequestError(
            f"ema.snapshot_every_steps={every}: there is nothing to keep where ema.power_stds is "
            "empty; use ema.power_stds=[0.05,0.1], or 0"
        )


def _check_heads(model: Config) -> None:
    if "num_heads" not in model or "hidden_size" not in model:
        return  # an architecture of the user's own
    width, heads = model["hidden_size"], model["num_heads"]
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


def _check_direction(objective: Config, latent: tuple[int, int, int]) -> None:
    weight = objective.get("direction_weight", 0.0)
    if weight and latent[0] == 1:
        raise RequestError(
            f"objective.direction_weight={weight:g}: the model sees one channel, where a direction "
            "is a sign and teaches nothing; use 0"
        )


def check_likelihood(config: Config) -> None:
    """Bits of images are known to a model of their pixels alone. Raises RequestError."""
    images, codec = config["evaluation"]["likelihood_images"], config["codec"]
    if images and codec["_target_"] != IDENTITY:
        raise RequestError(
            f"evaluation.likelihood_images={images}: the model sees latents, whose density says "
            "nothing of the bits of an image; use 0, or a model of pixels (codec=identity)"
        )


def _sampler_targets(names: Sequence[str]) -> list[str]:
    folder = resources.packaged("conf") / "sampler"
    files = [folder / f"{name}.yaml" for name in names]  # a user's own samplers lie elsewhere
    return [to_plain(OmegaConf.load(file))["_target_"] for file in files if file.exists()]
