"""What the configured data and codec know, read from headers and lists alone.

The checks of a command need these numbers within a second, so nothing here imports torch, and
nothing decodes an image or loads a weight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from dit_lab.core.errors import RequestError
from dit_lab.core.options import accepted, parameters_of
from dit_lab.core.types import DataFacts
from dit_lab.data.digits_facts import digits_facts
from dit_lab.data.fingerprint import fingerprint
from dit_lab.data.image_facts import image_folder_facts, labelled_list_facts
from dit_lab.data.latent_facts import latents_facts, read_manifest
from dit_lab.data.split_folders import NOW
from dit_lab.data.torchvision_facts import cifar10_facts, fashion_mnist_facts, mnist_facts

LATENTS = "dit_lab.data.latents.Latents"


def dataset_facts(
    target: str,
    options: Mapping[str, Any],
    *,
    load: Callable[[str], Any] | None = None,
    reading: int = NOW,
) -> DataFacts:
    """The facts of a dataset class, named by its dotted path; `reading` is how folders are read.

    The lab's own datasets are read here. A user's class states its own in a static method
    `facts(**options) -> DataFacts`; `load` imports it (the caller decides what may be imported).
    Of any dataset `num_classes=0` makes one without classes.
    """
    facts = _stated_facts(target, options, load, reading)
    if options.get("num_classes") != 0 or facts.num_classes == 0:
        return facts
    return replace(
        facts,
        num_classes=0,
        class_names=(),
        absent_classes=(),
        fingerprint=fingerprint(data=facts.fingerprint, unconditional=True),
    )


def _stated_facts(
    target: str, options: Mapping[str, Any], load: Callable[[str], Any] | None, reading: int
) -> DataFacts:
    if target in _DATASETS:
        known: DataFacts = _asked(_DATASETS[target], options, reading)
        return known
    if load is None:
        raise RequestError(f"dataset {target}: unknown; the lab has {', '.join(_DATASETS)}")
    own_facts = getattr(load(target), "facts", None)
    if own_facts is None:
        raise RequestError(
            f"dataset {target}: has no facts; add a static method `facts(**options)` "
            "that returns dit_lab.core.types.DataFacts"
        )
    facts = _asked(own_facts, options, reading)
    if not isinstance(facts, DataFacts):
        raise RequestError(
            f"dataset {target}: facts() returned {type(facts).__name__}; "
            "return dit_lab.core.types.DataFacts"
        )
    return facts


def _asked(facts: Callable[..., Any], options: Mapping[str, Any], reading: int) -> Any:
    known = {"reading": reading} if "reading" in parameters_of(facts) else {}
    return facts(**{**accepted(facts, options), **known})


def images_config(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a dataset's images: its own, or of what cached latents were made of."""
    if dataset["_target_"] != LATENTS:
        return dict(dataset)
    source = dict(read_manifest(dataset["root"]).source)
    if dataset["images_root"] is not None:
        source["root"] = dataset["images_root"]
    return source


_DATASETS: dict[str, Callable[..., DataFacts]] = {
    "dit_lab.data.digits.Digits": digits_facts,
    "dit_lab.data.labelled_list.LabelledList": labelled_list_facts,
    "dit_lab.data.image_folder.ImageFolder": image_folder_facts,
    "dit_lab.data.torchvision_sets.MNIST": mnist_facts,
    "dit_lab.data.torchvision_sets.FashionMNIST": fashion_mnist_facts,
    "dit_lab.data.torchvision_sets.CIFAR10": cifar10_facts,
    LATENTS: latents_facts,
}
