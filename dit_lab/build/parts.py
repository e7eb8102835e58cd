"""Construction of components from a configuration: the only place that creates `_target_`s."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from dit_lab.build.cost import in_bf16
from dit_lab.codecs.cached import Cached
from dit_lab.codecs.identity import Identity
from dit_lab.config import schema
from dit_lab.config.checks.data import OfData, images_of
from dit_lab.config.compatibility import needs_of_config
from dit_lab.config.components import load_component
from dit_lab.config.schema import EncodeConfig, RunConfig
from dit_lab.core import rng
from dit_lab.core.calls import Asked
from dit_lab.core.errors import RequestError
from dit_lab.core.options import accepted, arguments_of, parameters_of, target_of
from dit_lab.core.process_group import SINGLE_PROCESS
from dit_lab.core.types import (
    Batch,
    Codec,
    DataFacts,
    Dataset,
    LabelledCall,
    Objective,
    ProcessGroup,
    Sampler,
    Shapes,
)
from dit_lab.data.order import SampleOrder
from dit_lab.data.pairs import Pairs
from dit_lab.data.unlabelled import Unlabelled
from dit_lab.models.options import class_dropout
from dit_lab.samplers.guidance import Guidance
from dit_lab.samplers.guiding import Projected
from dit_lab.sampling.generate import Generator
from dit_lab.training.batches import Draws, TrainingBatches, no_draws, paired_noise
from dit_lab.training.parallel import compile_blocks, for_sampling, in_float32, with_weights

VALIDATION_BATCH = 128


def build(config: RunConfig | EncodeConfig, group: str, **given: Any) -> Any:
    """Create the component of a group from its options and the further arguments `given`."""
    return component_class(config, group)(**arguments_of(getattr(config, group)), **given)


def component_class(config: OfData, group: str) -> Any:
    """Return the class or function that a group's `_target_` names."""
    return load_component(target_of(getattr(config, group)), key=f"{group}._target_")


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Objects that training, sampling and evaluation share, built once from a configuration."""

    config: RunConfig
    shapes: Shapes
    objective: Objective
    codec: Codec
    device: torch.device


def build_parts(config: RunConfig, shapes: Shapes, device: torch.device) -> Parts:
    return Parts(
        config=config,
        shapes=shapes,
        objective=build_objective(config, shapes),
        codec=build(config, "codec").to(device),
        device=device,
    )


def build_objective(config: RunConfig, shapes: Shapes) -> Objective:
    """Return the objective for latents of these shapes."""
    given = accepted(component_class(config, "objective"), {"latent_shape": shapes.latent})
    objective: Objective = build(config, "objective", **given)
    return objective


def parts_of_model(config: RunConfig, shapes: Shapes, device: torch.device) -> Parts:
    """Return the parts that are needed for a model alone, without loading a codec."""
    objective = build_objective(config, shapes)
    return Parts(config=config, shapes=shapes, objective=objective, codec=Identity(), device=device)


def build_model(parts: Parts, *, heads: bool = True) -> nn.Module:
    """Return the model for the data's shapes, initialised from the seed, on the CPU.

    Without `heads`, it lacks those that are for training only.
    """
    needs = needs_of_config(parts.config)
    if not heads:
        needs = needs.in_sampling()
    channels, height, width = parts.shapes.latent
    model: nn.Module = build(
        parts.config,
        "model",
        input_size=(height, width),
        in_channels=channels,
        num_classes=parts.shapes.data.num_classes,
        learn_sigma=parts.objective.learn_sigma,
        **needs.arguments(),
        generator=rng.generator(parts.config.seed, "init"),
    )
    return model


def labelled_call(parts: Parts, model: nn.Module) -> LabelledCall:
    """Return the model as a function in the configured precision, with float32 output.

    It is compiled if `sample.compile` is set. The model itself is not changed.
    """
    if parts.config.sample.compile:
        model = with_weights(model)
        compile_blocks(model)
    else:
        model = for_sampling(model)
    bf16 = in_bf16(parts.config)

    def call(x: Tensor, time: Tensor, labels: Tensor, **asked: Unpack[Asked]) -> Tensor:
        with torch.autocast(parts.device.type, torch.bfloat16, enabled=bf16):
            output: Tensor = in_float32(model(x, time, labels, **asked))
            return output

    return call


def null_label(parts: Parts) -> int | None:
    """Return the null label, which follows the classes, or None if training drops no labels."""
    num_classes = parts.shapes.data.num_classes
    drops = num_classes > 0 and class_dropout(parts.config.model) > 0
    return num_classes if drops else None


def build_dataset(config: OfData, split: str, *, reading: int, seed: int = 0) -> Dataset:
    """Return the "train" or "validation" split; augmentation depends on the seed.

    `reading` is the version of the rules for folders by which the facts of the data were read.
    """
    kind = component_class(config, "dataset")
    options = {**arguments_of(config.dataset), "split": split, "seed": seed}
    if "reading" in parameters_of(kind):  # passed only to an explicit parameter
        options["reading"] = reading
    dataset: Dataset = kind(**accepted(kind, options))
    return dataset


def build_examples(parts: Parts, split: str) -> tuple[Dataset, Codec]:
    """Return the training examples of a split and their codec.

    Examples are the dataset's images, their cached moments, or reflow pairs, which are latents
    already.
    """
    pairs = getattr(parts.config.coupling, "pairs", None)
    if pairs is not None:
        return Pairs(Path(pairs), split=split), Identity()
    data, seed = parts.shapes.data, parts.config.seed
    dataset = build_dataset(parts.config, split, reading=data.reading, seed=seed)
    labelled = dataset if data.num_classes else Unlabelled(dataset)
    if not hasattr(dataset, "manifest"):  # only datasets of cached moments have one
        return labelled, parts.codec
    _refuse_latents_of_another(parts.codec, dataset)
    return labelled, Cached(parts.codec)


def _refuse_latents_of_another(codec: Codec, dataset: Any) -> None:
    encoded_by = dataset.manifest.plan.codec
    if codec.fingerprint != encoded_by:
        raise RequestError(
            f"dataset.root={dataset.root}: was encoded by another codec ({encoded_by[:12]}, this "
            f"one is {codec.fingerprint[:12]}); give that one with codec.path=FOLDER, or encode "
            "again"
        )


def build_images(config: RunConfig, data: DataFacts, split: str) -> Dataset:
    """Return the "train" or "validation" images, even if training reads cached latents."""
    images = replace(config, dataset=images_of(config))
    dataset = build_dataset(images, split, reading=data.reading, seed=config.seed)
    return dataset if data.num_classes else Unlabelled(dataset)


def build_batches(
    parts: Parts,
    *,
    objective: Objective | None = None,
    dataset: Dataset,
    codec: Codec,
    process_index: int,
    num_processes: int,
) -> TrainingBatches:
    """Return the training batches, in the order and with the random draws of the seed.

    `objective` is the one of training, with methods; None for that of `parts`.
    """
    objective = objective or parts.objective
    config = parts.config
    return TrainingBatches(
        dataset=dataset,
        order=SampleOrder(config.seed, len(dataset)),
        draws=_draws(replace(parts, objective=objective), codec, "train"),
        keep_images=getattr(objective, "takes_images", False),
        codec=codec,
        coupling=build(config, "coupling"),
        device=parts.device,
        global_batch_size=config.training.global_batch_size,
        accumulation=config.training.accumulation,
        process_index=process_index,
        num_processes=num_processes,
        num_workers=config.dataset.num_workers,
    )


def validation_batches(
    parts: Parts, *, dataset: Dataset, codec: Codec
) -> list[Callable[[], Batch]]:
    """Return functions that make the batches of held-out images for the validation loss.

    The `evaluation.loss_images` images are spread evenly over the split, because lists are often
    sorted by class. Their noise and times are fixed by the seed.
    """
    count = min(parts.config.evaluation.loss_images, len(dataset))
    chosen = torch.arange(count) * len(dataset) // count
    draws = _draws(parts, codec, "validation")

    def make(indices: Tensor) -> Batch:
        images, labels = dataset.fetch(indices, None)
        drawn = draws.batch(images, labels, indices, paired_noise(dataset, indices))
        return drawn.each(lambda tensor: tensor.to(parts.device)).encoded(codec)

    return [partial(make, indices) for indices in chosen.split(VALIDATION_BATCH)]


def _draws(parts: Parts, codec: Codec, purpose: str) -> Draws:
    """Return the settings of random draws; labels are dropped in training only."""
    config = parts.config
    drops = purpose == "train" and null_label(parts) is not None
    return Draws(
        seed=config.seed,
        purpose=purpose,
        latent_shape=parts.shapes.latent,
        time_from_uniform=parts.objective.time_from_uniform,
        further=getattr(parts.objective, "draws", no_draws),
        label_drop_prob=class_dropout(config.model) if drops else 0.0,
        posterior=codec.draws,
    )


def build_generator(
    parts: Parts,
    *,
    process_group: ProcessGroup = SINGLE_PROCESS,
    check_stop: Callable[[], None],
    sampler: Sampler | None = None,
    guidance: Guidance | None = None,
    weak: LabelledCall | None = None,
) -> Generator:
    """Return the image generator, for the configured sampler and guidance unless these are given.

    `weak` is the weak model for autoguidance; None for the null label.
    """
    return Generator(
        objective=parts.objective,
        sampler=sampler or build(parts.config, "sampler"),
        guidance=guidance or _guidance(parts.config.guidance),
        codec=parts.codec,
        latent_shape=parts.shapes.latent,
        num_classes=parts.shapes.data.num_classes,
        null_label=null_label(parts),
        levels=parts.shapes.data.levels,
        device=parts.device,
        process_group=process_group,
        weak=weak,
        absent_classes=parts.shapes.data.absent_classes,
        check_stop=check_stop,
    )


def _guidance(options: schema.Guidance) -> Guidance:
    channels = options.channels
    return Guidance(
        scale=options.scale,
        interval=(options.interval[0], options.interval[1]),
        channels=None if channels == "all" else channels,
        rescale=options.rescale,
        kind=options.kind,
        projected=Projected(options.parallel, options.norm_threshold, options.momentum),
        zero_until=options.zero_until,
    )
