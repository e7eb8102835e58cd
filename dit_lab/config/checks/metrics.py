"""Settings of the chosen metrics, and checks of their requirements. Torch-free."""

from __future__ import annotations

import math
from typing import Any

from dit_lab.config.schema import RunConfig
from dit_lab.core.errors import RequestError
from dit_lab.core.options import Component, arguments_of, target_of
from dit_lab.core.types import DataFacts, Shapes
from dit_lab.evaluation.draws import DRAWS, MIN_IMAGES, draw_images
from dit_lab.evaluation.options import EXTRACTOR

FRECHET = "dit_lab.evaluation.metrics.components.Frechet"
CLASS_ACCURACY = "dit_lab.evaluation.metrics.components.ClassAccuracy"

LEAST_IMAGES = 2048
"""Minimum number of images for a Frechet distance, whose covariance needs so many."""


def asked(options: Component) -> dict[str, Any]:
    """Return the constructor arguments of a metric, without its evaluation interval."""
    return {key: value for key, value in arguments_of(options).items() if key != "every_steps"}


def extractors_of(config: RunConfig, num_classes: int) -> list[str]:
    """Return the names of the feature extractors that the chosen metrics use."""
    listed = config.metric.values()
    named = {options.extractor for options in listed if hasattr(options, "extractor")}
    if num_classes > 1 and any(target_of(options) == CLASS_ACCURACY for options in listed):
        named.add("classifier")
    return sorted(named)


def evaluation_intervals(config: RunConfig) -> dict[str, int]:
    """Return metric -> evaluation interval in steps; 0 for only at the end."""
    usual = config.training.evaluate_every_steps
    return {
        name: usual if getattr(options, "every_steps", None) is None else options.every_steps
        for name, options in config.metric.items()
    }


def check_metrics(config: RunConfig, data: DataFacts) -> None:
    """Raise RequestError for metrics that need more images, or classes."""
    count = config.evaluation.num_images
    if count == 0:
        return
    for name, options in config.metric.items():
        if target_of(options) == FRECHET:
            _check_frechet(name, options, count, data)
        if (extractor := getattr(options, "extractor", "pixels")) not in EXTRACTOR:
            raise RequestError(
                f"metric.{name}.extractor={extractor}: expected one of {', '.join(EXTRACTOR)}"
            )
        if extractor == "classifier" and data.num_classes == 0:
            raise RequestError(
                f"metric.{name}.extractor=classifier: the data has no classes for a classifier; "
                "use pixels"
            )


def _check_frechet(name: str, options: Component, count: int, data: DataFacts) -> None:
    instead = "metric=[kernel_distance] suits few images"
    if count < LEAST_IMAGES:
        raise RequestError(
            f"metric.{name}: evaluation.num_images={count} are too few for a covariance; "
            f"use at least {LEAST_IMAGES}; {instead}"
        )
    if options.reference is None and data.train_images < LEAST_IMAGES:
        raise RequestError(
            f"metric.{name}: {data.train_images} training images are too few for a covariance, "
            f"which needs {LEAST_IMAGES}; {instead}"
        )


def counts_compared(config: RunConfig, shapes: Shapes) -> tuple[int, int]:
    """Return the numbers of training and held-out images that samples are compared with."""
    at_most = config.evaluation.reference_images
    return min(at_most, shapes.data.train_images), min(at_most, shapes.data.validation_images)


def why_unmeasured(config: RunConfig, shapes: Shapes) -> str:
    """Return why samples cannot be evaluated with this config and data, or ""."""
    wanted, (train, held_out) = config.evaluation.num_images, counts_compared(config, shapes)
    if wanted == 0:
        return "evaluation.num_images=0: no images are drawn; 1024 would be a good count"
    if not config.metric:
        return "metric=[]: nothing is to be measured; two_sample and memorisation say most"
    if draw_images(wanted, train=train, held_out=held_out):
        return ""
    return (
        f"evaluation.num_images={wanted}: with {train} training and {held_out} held-out images "
        f"there are too few to compare; {DRAWS * MIN_IMAGES} generated, {DRAWS * MIN_IMAGES} "
        f"training and {MIN_IMAGES} held-out images are the least{_more_held_out(config, shapes)}"
    )


def _more_held_out(config: RunConfig, shapes: Shapes) -> str:
    """Propose a larger `dataset.validation_share` if that gives enough held-out images."""
    images = shapes.data.train_images + shapes.data.validation_images
    few = shapes.data.validation_images < MIN_IMAGES
    if not few or not hasattr(config.dataset, "validation_share") or images < 5 * MIN_IMAGES:
        return ""
    share = math.ceil(20 * MIN_IMAGES / images) / 10  # twice the least, since shares are rounded
    return f"; use dataset.validation_share={share:g}"
