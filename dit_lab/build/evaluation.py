"""Construction of metrics, real reference images and feature extractors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from dit_lab.build.parts import Parts, build_images
from dit_lab.config.checks.metrics import asked, extractors_of
from dit_lab.config.components import load_component
from dit_lab.config.recorded import REFERENCE
from dit_lab.config.schema import RunConfig
from dit_lab.core.options import target_of
from dit_lab.data.facts import images_config
from dit_lab.evaluation.features.classifier import classifier_fingerprint, trained_classifier
from dit_lab.evaluation.features.encoders import (
    classifier_encoder,
    folder_encoder,
    random_encoder,
)
from dit_lab.evaluation.features.extractors import Extractor, Pixels, pooled_size
from dit_lab.evaluation.features.fidelity import DinoV2, Inception
from dit_lab.evaluation.features.reference_statistics import kept_statistics
from dit_lab.evaluation.features.statistics import factored
from dit_lab.evaluation.metrics.frechet import Moments
from dit_lab.evaluation.quality import Metric, ReferenceSet
from dit_lab.evaluation.reference import Reference, load_images

FOREIGN = {"inception": Inception, "dinov2": DinoV2}


def build_metrics(config: RunConfig) -> dict[str, Metric]:
    """Return the chosen metrics by name."""
    metrics = {}
    for name, options in config.metric.items():
        component = load_component(target_of(options), key=f"metric.{name}._target_")
        metrics[name] = component(**asked(options))
    return metrics


class Extractors:
    """The feature extractors of a configuration, each created on first use."""

    def __init__(self, parts: Parts, check_stop: Callable[[], None]) -> None:
        self._parts, self._check_stop = parts, check_stop
        self._made: dict[str, Extractor] = {}

    def __getitem__(self, name: str) -> Extractor:
        if name not in self._made:
            self._made[name] = self._make(name)
        return self._made[name]

    def _make(self, name: str) -> Extractor:
        parts = self._parts
        if name in FOREIGN:
            return FOREIGN[name](parts.config.evaluation.weights_path, parts.device)
        if name == "pixels":
            return Pixels()
        return trained_classifier(
            build_images(parts.config, parts.shapes.data, "train"),
            parts.shapes.data,
            folder=cache_folder(parts.config),
            device=parts.device,
            check_stop=self._check_stop,
        )

    def fingerprints(self) -> dict[str, str]:
        """Return the fingerprints of the extractors that the chosen metrics use."""
        data, config = self._parts.shapes.data, self._parts.config
        return {name: self._fingerprint(name) for name in extractors_of(config, data.num_classes)}

    def _fingerprint(self, name: str) -> str:
        data = self._parts.shapes.data
        if name == "pixels":
            height, width = pooled_size(data.height, data.width)
            return f"{height}x{width}x{data.channels}"
        if name == "classifier":  # known before it is trained
            return classifier_fingerprint(data)
        return self[name].fingerprint


def build_teacher(
    parts: Parts, check_stop: Callable[[], None], name: str, features: int
) -> Callable[[Tensor], Tensor]:
    """Return a frozen encoder of images, on the grid of the model's tokens.

    Args:
        parts: the parts of the training.
        check_stop: called while an encoder is trained.
        name: "classifier", "random", or a folder.
        features: width of its features.
    """
    patch, (_, height, width) = parts.config.model.patch_size, parts.shapes.latent
    grid = height // patch, width // patch
    if name == "random":
        channels = parts.shapes.data.channels
        return random_encoder(channels, features, grid=grid, device=parts.device)
    if name != "classifier":
        return folder_encoder(name, grid=grid, device=parts.device)
    classifier: Any = Extractors(parts, check_stop)["classifier"]
    return classifier_encoder(classifier, grid=grid)


def cache_folder(config: RunConfig) -> Path:
    """Return the folder that caches results about real images, for all runs."""
    return Path(config.paths.root) / REFERENCE


def build_reference_set(
    parts: Parts, extractors: Extractors, check_stop: Callable[[], None]
) -> ReferenceSet:
    """Return the reference set of real images from the run's data."""
    folder = cache_folder(parts.config)

    def statistics(extractor: str) -> Moments:
        kept = kept_statistics(
            build_images(parts.config, parts.shapes.data, "train"),
            extractors[extractor],
            described=_described(parts),
            levels=parts.shapes.data.levels,
            folder=folder,
            check_stop=check_stop,
        )
        return factored(kept)

    return ReferenceSet(
        load_reference(parts, check_stop),
        seed=parts.config.evaluation.seed,
        extractors=extractors,
        statistics=statistics,
        folder=folder,
        check_stop=check_stop,
    )


def _described(parts: Parts) -> dict[str, Any]:
    """Return what identifies the images of the training split after preprocessing."""
    data, options = parts.shapes.data, images_config(asdict(parts.config.dataset))
    elsewhere = ("root", "download", "num_workers", "num_classes", "horizontal_flip")
    return {
        "data": data.fingerprint,
        "split": "train",
        "images": data.train_images,
        "transform": {key: value for key, value in options.items() if key not in elsewhere},
        "size": [data.height, data.width, data.channels],
        "levels": data.levels,
    }


def load_reference(parts: Parts, check_stop: Callable[[], None]) -> Reference:
    """Load at most `evaluation.reference_images` training images and as many held-out images."""
    train, held_out = (
        load_images(
            build_images(parts.config, parts.shapes.data, split),
            at_most=parts.config.evaluation.reference_images,
            levels=parts.shapes.data.levels,
            check_stop=check_stop,
        )
        for split in ("train", "validation")
    )
    data = parts.shapes.data
    return Reference(train, held_out, data.num_classes, data.absent_classes)
