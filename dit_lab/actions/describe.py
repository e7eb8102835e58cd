"""Shapes and configs for `dit-lab describe`, by declared sizes without the files. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from dit_lab.codecs.facts import AUTOENCODER, HUB
from dit_lab.config.axes import (
    label_of,
    product,
    recipe_axes,
    settings_of,
    sweep_overrides,
    values_of,
)
from dit_lab.config.checks.data import UNKNOWN_DATA, read_facts
from dit_lab.config.checks.own import check_own_parts, latents_of
from dit_lab.config.checks.training import check_data, check_model
from dit_lab.config.compose import Composer, of_one_training
from dit_lab.config.identity import train_hash
from dit_lab.config.overrides import parse_override
from dit_lab.config.schema import RunConfig
from dit_lab.core.options import Component, target_of
from dit_lab.core.types import DataFacts, Shapes
from dit_lab.data.image_facts import sides
from dit_lab.runs.folder import is_deciding

# of Stable Diffusion's autoencoders, which DiT and SiT use
LATENT_CHANNELS, SIDE_FACTOR = 4, 8


def described_shapes(config: RunConfig) -> tuple[Shapes, list[str]]:
    """Return the shapes of data and latents, and a line for each assumption.

    The declared classes and image size are assumed if `dataset.root` does not exist here, and the
    latents of Stable Diffusion's autoencoders if `codec.path` does not.

    Raises:
        RequestError: as in `check_data`.
    """
    dataset, codec = config.dataset, config.codec
    declared = (
        getattr(dataset, "num_classes", None) is not None
        and getattr(dataset, "image_size", None) is not None
    )
    no_data = declared and _lacks(getattr(dataset, "root", None))
    no_codec = target_of(codec) == AUTOENCODER and _lacks(codec.path)
    if not no_data and not no_codec:
        return check_data(config), []
    said = []
    if no_data:
        facts = _declared(dataset)
        said.append(f"{dataset.root} not found: classes and size as declared")
    else:
        facts = read_facts(config)
    if no_codec:
        latent = (LATENT_CHANNELS, facts.height // SIDE_FACTOR, facts.width // SIDE_FACTOR)
        said.append(f"{codec.path} not found: latents as of Stable Diffusion's autoencoders")
    else:
        latent = latents_of(codec, facts)
    shapes = Shapes(facts, latent)
    check_own_parts(config, shapes)
    check_model(config, shapes)
    return shapes, said


def different_trainings(
    overrides: Sequence[str], config_dirs: Iterable[Path] = ()
) -> dict[str, RunConfig]:
    """Return the configs of a named sweep that differ in their train hash, apart from the seed.

    The keys are the settings in which they differ, such as `model=s patch=8`.
    """
    dirs = list(config_dirs)
    typed = sweep_overrides(overrides, dirs)
    first = [
        one if not one.is_sweep_override() or _decides(one.key_or_group)
        else parse_override(f"{one.key_or_group}={values_of(one)[0]}")
        for one in typed
    ]  # fmt: skip
    fixed = [str(one.input_line) for one in first if not one.is_sweep_override()]
    composer, of_recipe = Composer(dirs), recipe_axes(overrides, dirs)
    found: dict[str, tuple[Sequence[str], RunConfig]] = {}
    for texts in product(first):
        config = of_one_training(composer.compose([*fixed, *texts], recipe_axes=of_recipe).config)
        found.setdefault(train_hash(config), (texts, config))
    chosen = [settings_of(texts) for texts, _ in found.values()]
    apart = [key for key in chosen[0] if len({settings[key] for settings in chosen}) > 1]
    labels = [label_of({key: settings[key] for key in apart}) for settings in chosen]
    return dict(zip(labels, (config for _, config in found.values()), strict=True))


def _decides(axis: str) -> bool:
    """Return whether the values of an axis give different trainings; False for the seed."""
    return axis != "seed" and is_deciding(axis)


def _lacks(path: str | None) -> bool:
    return path is not None and not path.startswith(HUB) and not Path(path).exists()


def _declared(dataset: Component) -> DataFacts:
    height, width = sides(dataset.image_size)
    return DataFacts(
        channels=3,
        height=height,
        width=width,
        num_classes=dataset.num_classes,
        class_names=tuple(map(str, range(dataset.num_classes))),
        train_images=0,
        validation_images=0,
        fingerprint=UNKNOWN_DATA,
    )
