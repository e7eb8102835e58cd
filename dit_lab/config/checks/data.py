"""Checks of data for training, encoding and evaluation, from its facts. Torch-free."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from dit_lab.codecs.facts import IDENTITY
from dit_lab.config.checks.own import latents_of
from dit_lab.config.components import load_component
from dit_lab.config.objects import to_component
from dit_lab.config.schema import CheckConfig, EncodeConfig, RunConfig
from dit_lab.config.validate import checked_component
from dit_lab.core.errors import RequestError
from dit_lab.core.options import Component, arguments_of, target_of
from dit_lab.core.text import counted
from dit_lab.core.types import DataFacts, Shapes
from dit_lab.data.facts import LATENTS, dataset_facts, images_config
from dit_lab.data.glance import glance
from dit_lab.data.image_facts import sides
from dit_lab.data.latent_facts import PLAN, read_manifest
from dit_lab.data.split_folders import FIRST, NOW
from dit_lab.runs.folder import read_json

UNKNOWN_DATA = "unknown"
"""Fingerprint of unknown data, for imported weights."""


OfData = RunConfig | EncodeConfig | CheckConfig
"""Configurations that have a dataset."""


def images_of(config: RunConfig) -> Component:
    """Return the dataset of a configuration's images; for cached latents, of the encoded images."""
    options = checked_component("dataset", images_config(asdict(config.dataset)))
    return to_component("dataset", options)


def read_facts(config: OfData, *, reading: int = NOW) -> DataFacts:
    """Return the facts of the configured dataset. Raises RequestError.

    `reading` is the version of the rules for folders, which is that of the recorded run.
    """

    def load(target: str) -> Any:
        return load_component(target, key="dataset._target_")

    options = arguments_of(config.dataset)
    return dataset_facts(target_of(config.dataset), options, load=load, reading=reading)


def check_declarations(dataset: Component, facts: DataFacts) -> None:
    """Raise RequestError if a declared number of classes or image size differs from the data's."""
    classes, size = getattr(dataset, "num_classes", None), getattr(dataset, "image_size", None)
    if classes is not None and classes != facts.num_classes:
        raise RequestError(
            f"dataset.num_classes={classes}: the data has {counted(facts.num_classes, 'class')}"
        )
    if size is not None and (facts.height, facts.width) != sides(size):
        raise RequestError(
            f"dataset.image_size={size}: the data's images are {facts.height} x {facts.width}"
        )


def check_same_codec(config: RunConfig, recorded: RunConfig) -> None:
    """Raise RequestError if a trained run is to be used with another kind of codec."""
    if target_of(config.codec) != target_of(recorded.codec):
        raise RequestError(
            f"codec={config.choices['codec']}: the run was trained with "
            f"codec={recorded.choices['codec']}; codec.path=FOLDER says where that lies now"
        )


def first_look(config: RunConfig, facts: DataFacts) -> tuple[str, ...]:
    """Return notes on data for a user who begins to train on it.

    Raises:
        RequestError: The data is not fit for training.
    """
    look, dataset = facts.first_look, config.dataset
    if look.doubt or look.lost:
        raise RequestError(look.doubt or look.lost)
    if not look.files:
        return look.notes
    seen = glance(
        look.files,
        whole=len(look.files) == facts.train_images + facts.validation_images,
        exif=dataset.exif,
        transparency=dataset.transparency,
        skips=dataset.on_bad_image == "skip",
    )
    return (*look.notes, *seen)


def check_same_data(config: RunConfig, shapes: Shapes) -> DataFacts:
    """Return the facts of the configured data, and refuse data other than the run's training data.

    If that is unknown, images of another size or number of classes are refused. Raises
    RequestError.
    """
    is_unknown = shapes.data.fingerprint == UNKNOWN_DATA
    facts = read_facts(config, reading=NOW if is_unknown else shapes.data.reading)
    if is_unknown:
        refuse_other_images(config, facts, shapes.data)
    elif facts.fingerprint != shapes.data.fingerprint:
        raise RequestError(
            f"dataset={config.choices['dataset']}: not the data that the run was trained on "
            f"({shapes.data.fingerprint[:12]}, now {facts.fingerprint[:12]}); dataset.root=FOLDER "
            "says where that lies now"
        )
    return facts


def refuse_other_images(config: RunConfig, facts: DataFacts, trained: DataFacts) -> None:
    """Raise RequestError for data with another image size or number of classes than the model's."""
    found, expected = (
        (of.channels, of.height, of.width, of.num_classes) for of in (facts, trained)
    )
    if found != expected:
        raise RequestError(
            f"dataset={config.choices['dataset']}: has {_in_words(found)}, the weights are for "
            f"{_in_words(expected)}"
        )


def _in_words(images: tuple[int, int, int, int]) -> str:
    channels, height, width, classes = images
    return f"images of {channels} x {height} x {width} in {counted(classes, 'class')}"


def check_images(config: RunConfig) -> None:
    """Check that the images behind cached latents exist if samples are to be compared with them."""
    dataset, count = config.dataset, config.evaluation.num_images
    if target_of(dataset) != LATENTS or count == 0:
        return
    without = "dataset.images_root=FOLDER says where they lie, evaluation.num_images=0 does without"
    needs = f"evaluation.num_images={count}: needs the images that were encoded"
    encoded = read_manifest(dataset.root).plan.data
    try:
        images = replace(config, dataset=images_of(config))
        found = read_facts(images, reading=encoded.get("reading", 1))
    except RequestError as refusal:
        raise RequestError(f"{needs}; {refusal}; {without}") from None
    if found.fingerprint != encoded["fingerprint"]:
        raise RequestError(f"{needs}, and those have changed since; {without}")


def check_encoding(config: EncodeConfig) -> DataFacts:
    """Return the facts of the images that `dit-lab encode` is to encode. Raises RequestError."""
    dataset, codec = config.dataset, config.codec
    if target_of(codec) == IDENTITY:
        raise RequestError("codec=identity: leaves images as they are; choose codec=vae")
    if target_of(dataset) == LATENTS:
        raise RequestError("dataset=latents: is encoded already; choose the images themselves")
    if getattr(dataset, "crop", None) == "random":
        raise RequestError(
            "dataset.crop=random: crops change with every use and cannot be cached; "
            "use dataset.crop=centre"
        )
    facts = encoded_facts(config)
    check_declarations(dataset, facts)
    latents_of(codec, facts)
    return facts


def encoded_facts(config: EncodeConfig) -> DataFacts:
    """Return the facts of images to encode, by the folder rules of an encoding that was begun."""
    plan = read_json(Path(config.out) / PLAN)
    before = plan.get("data")
    began = isinstance(before, dict) and before.get("reading", FIRST) == FIRST
    return read_facts(config, reading=FIRST if began else NOW)
