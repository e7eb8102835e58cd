"""From the configuration to objects: the one place that builds what `_target_` names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from dit_lab import rng
from dit_lab.data.facts import accepted
from dit_lab.data.order import SampleOrder
from dit_lab.evaluation.generate import Generator
from dit_lab.lab.checks import Shapes
from dit_lab.lab.trust import load_component
from dit_lab.samplers.guidance import Guidance
from dit_lab.training.batches import Draws, TrainingBatches
from dit_lab.types import Batch, Codec, Dataset, Objective, Sampler

Config = Mapping[str, Any]

VALIDATION_BATCH = 128


def build(config: Config, group: str, **given: Any) -> Any:
    """The component of a group, from its options and what the lab gives itself."""
    options = {key: value for key, value in config[group].items() if key != "_target_"}
    return component_class(config, group)(**options, **given)


def component_class(config: Config, group: str) -> Any:
    """The class or function that a group's `_target_` names."""
    return load_component(
        config[group]["_target_"],
        trusted_modules=config["trusted_modules"],
        key=f"{group}._target_",
    )


def build_model(config: Config, shapes: Shapes, objective: Objective) -> nn.Module:
    """The model for the data's shapes, initialised from the seed, on the CPU."""
    channels, height, width = shapes.latent
    return build(
        config,
        "model",
        input_size=(height, width),
        in_channels=channels,
        num_classes=shapes.data.num_classes,
        learn_sigma=objective.learn_sigma,
        generator=rng.generator(config["seed"], "init"),
    )


def null_label(config: Config, shapes: Shapes) -> int | None:
    """What stands for "no label": the row after the classes, where training drops labels."""
    drops = shapes.data.num_classes > 0 and config["model"]["class_dropout_prob"] > 0
    return shapes.data.num_classes if drops else None


def build_dataset(config: Config, split: str) -> Dataset:
    """The "train" or "validation" split."""
    dataset = component_class(config, "dataset")
    options = {**config["dataset"], "split": split, "seed": config["seed"]}
    return dataset(**accepted(dataset, options))


def build_optimizer(config: Config, model: nn.Module) -> Optimizer:
    """The optimizer over the weights that learn."""
    trainable = [weight for weight in model.parameters() if weight.requires_grad]
    return build(config, "optimizer", params=trainable)


def build_codec(config: Config, device: torch.device) -> Codec:
    return build(config, "codec").to(device)


def build_batches(
    config: Config,
    shapes: Shapes,
    *,
    dataset: Dataset,
    codec: Codec,
    objective: Objective,
    device: torch.device,
    process_index: int,
    num_processes: int,
) -> TrainingBatches:
    """Training data in the order and with the draws that the seed decides."""
    return TrainingBatches(
        dataset=dataset,
        order=SampleOrder(config["seed"], len(dataset)),
        draws=_draws(config, shapes, objective, "train"),
        codec=codec,
        device=device,
        global_batch_size=config["training"]["global_batch_size"],
        accumulation=config["training"]["accumulation"],
        process_index=process_index,
        num_processes=num_processes,
        num_workers=config["dataset"]["num_workers"],
    )


def validation_batches(
    config: Config,
    shapes: Shapes,
    *,
    dataset: Dataset,
    codec: Codec,
    objective: Objective,
    device: torch.device,
) -> Callable[[], Iterator[Batch]]:
    """`evaluation.loss_images` held-out images, evenly spread over the split (lists are often
    sorted by class), at noise and times fixed by the seed."""
    count = min(config["evaluation"]["loss_images"], len(dataset))
    chosen = torch.arange(count) * len(dataset) // count
    draws = _draws(config, shapes, objective, "validation")

    def batches() -> Iterator[Batch]:
        for indices in chosen.split(VALIDATION_BATCH):
            images, labels = dataset.fetch(indices, None)
            yield draws.encoded(draws.batch(images, labels, indices), codec, device)

    return batches


def _draws(config: Config, shapes: Shapes, objective: Objective, purpose: str) -> Draws:
    """How noise and times are drawn; labels are dropped in training only."""
    drops = purpose == "train" and null_label(config, shapes) is not None
    return Draws(
        seed=config["seed"],
        purpose=purpose,
        latent_shape=shapes.latent,
        time_from_uniform=objective.time_from_uniform,
        label_drop_prob=config["model"]["class_dropout_prob"] if drops else 0.0,
    )


def build_generator(
    config: Config,
    shapes: Shapes,
    *,
    objective: Objective,
    codec: Codec,
    device: torch.device,
    check_stop: Callable[[], None],
    sampler: Sampler | None = None,
    guidance: Guidance | None = None,
) -> Generator:
    """What draws images, for the configured sampler and guidance unless these are given."""
    return Generator(
        objective=objective,
        sampler=sampler or build(config, "sampler"),
        guidance=guidance or _guidance(config["guidance"]),
        codec=codec,
        latent_shape=shapes.latent,
        num_classes=shapes.data.num_classes,
        null_label=null_label(config, shapes),
        device=device,
        check_stop=check_stop,
    )


def _guidance(options: Config) -> Guidance:
    channels = options["channels"]
    return Guidance(
        scale=options["scale"],
        interval=tuple(options["interval"]),
        channels=None if channels == "all" else channels,
    )
