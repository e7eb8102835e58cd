"""Facts about the configured dataset, read from file headers and lists only.

Commands check these numbers before they start, so reading them must take less than a second:
nothing here imports torch, decodes an image or loads weights.
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
    """Return the facts of a dataset class.

    The facts of built-in datasets are computed here. A user-defined class returns its facts from a
    static method `facts(**options) -> DataFacts`. For every dataset, `num_classes=0` removes the
    classes.

    Args:
        target: the dotted path of the class.
        options: the options of the dataset.
        load: imports a user-defined class; the caller decides which imports are allowed. None
            allows built-in datasets only.
        reading: the version of the folder-reading rules, see `split_folders.py`.

    Raises:
        RequestError: if the class is unknown, has no facts, or its data cannot be used.
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
    """Return the config of a dataset's images; for cached latents, of the encoded dataset."""
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
