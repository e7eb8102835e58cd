"""Checks of couplings against objectives, samplers, batches and data. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from dit_lab.config.checks.methods import check_groups
from dit_lab.config.compatibility import draws_noise
from dit_lab.config.schema import RunConfig
from dit_lab.core.errors import RequestError
from dit_lab.core.options import Component, target_of
from dit_lab.core.text import counted
from dit_lab.core.types import Shapes
from dit_lab.data.pair_facts import FACTS, PairFacts, read_pair_facts

INDEPENDENT = "dit_lab.training.coupling.Independent"


def is_coupled(config: RunConfig) -> bool:
    """Return whether the noise of an image depends on the image."""
    return target_of(config.coupling) != INDEPENDENT


def check_coupling(config: RunConfig) -> None:
    """Check the coupling against the objective and the micro-batch size. Raises RequestError."""
    if not is_coupled(config):
        return
    chosen, objective = config.choices, config.objective
    if hasattr(objective, "num_timesteps"):
        raise RequestError(
            f"coupling={chosen['coupling']}: not with objective={chosen['objective']}, whose "
            "reverse steps assume independent noise; use rectified_flow or flow_matching"
        )
    if hasattr(config.coupling, "pairs") and getattr(objective, "path", "linear") != "linear":
        raise RequestError(
            f"objective.path={objective.path}: coupling=reflow straightens paths; use linear"
        )
    check_groups(config, "coupling", getattr(config.coupling, "group_images", 1))


def check_coupled_sampling(
    sampler: Component, trained: RunConfig, choices: Mapping[str, str]
) -> None:
    """Raise RequestError for a stochastic sampler with a model that was trained on coupled noise.

    Such a sampler needs the score, which models of coupled noise do not give.
    """
    if is_coupled(trained) and draws_noise(sampler):
        raise RequestError(
            f"sampler={choices['sampler']}: is a stochastic sampler, which needs a model whose "
            f"noise was independent, not coupling={trained.choices['coupling']}; use heun"
        )


def check_coupled_data(config: RunConfig, shapes: Shapes) -> None:
    """Check the coupling against the classes, and reflow pairs by shape. Raises RequestError."""
    coupling, classes = config.coupling, shapes.data.num_classes
    if classes and not getattr(coupling, "within_class", True) and not coupling.force:
        raise RequestError(
            f"coupling.within_class=false: the data has {counted(classes, 'class')}, and the "
            "noise of each would not be standard normal, as sampling assumes; use true, or "
            "coupling.force=true"
        )
    if hasattr(coupling, "pairs"):
        facts = read_pair_facts(coupling.pairs)
        check_pairs(facts, config, shapes)
        _check_noise(facts, config.sample.seed, config.evaluation.num_seeds)


def check_pair_noise(trained: RunConfig, *, seed: int, num_seeds: int = 1) -> None:
    """Raise RequestError for sampling seeds whose noise a reflow model was trained on.

    The noise is known from the facts of the pairs, so nothing is checked if these no longer exist.
    """
    pairs = getattr(trained.coupling, "pairs", None)
    if pairs is not None and (Path(pairs) / FACTS).exists():
        _check_noise(read_pair_facts(pairs), seed, num_seeds)


def _check_noise(facts: PairFacts, seed: int, num_seeds: int) -> None:
    """Check the seeds; only pairs of earlier versions have the noise of samples."""
    if facts.noise is not None or facts.seed not in range(seed, seed + num_seeds):
        return
    several = f" and evaluation.num_seeds={num_seeds}" if num_seeds > 1 else ""
    raise RequestError(
        f"sample.seed={seed}{several}: the pairs were drawn with seed {facts.seed} by an earlier "
        "version, so samples would start from noise that was trained on; give a sample.seed above "
        f"{facts.seed}"
    )


def check_pairs(facts: PairFacts, config: RunConfig, shapes: Shapes) -> None:
    """Raise RequestError if pairs, drawn or not yet, do not have the shapes of the model."""
    classes = shapes.data.num_classes
    if (tuple(facts.latent_shape), facts.num_classes) != (shapes.latent, classes):
        raise RequestError(
            f"coupling.pairs={config.coupling.pairs}: holds {_shape(facts.latent_shape)} in "
            f"{counted(facts.num_classes, 'class')}; the model sees {_shape(shapes.latent)} in "
            f"{classes}"
        )


def _shape(shape: tuple[int, ...] | list[int]) -> str:
    return " x ".join(map(str, shape))
