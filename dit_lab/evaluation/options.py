"""Options of the metrics. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from dit_lab.core.options import Component, option

# Annotations are evaluated by OmegaConf 2.3, which knows Optional[...] but not X | None.
# ruff: noqa: UP045

EXTRACTOR = ("pixels", "classifier", "inception", "dinov2")
CLASS_EXTRACTOR = ("classifier", "inception")


@dataclass
class Metric(Component):
    """Options of every metric."""

    every_steps: Optional[int] = option(
        None,
        at_least=0,
        help="evaluation interval in steps; 0: only at the end; null: "
        "training.evaluate_every_steps",
    )


@dataclass
class FeatureMetric(Metric):
    extractor: str = option(
        "pixels", choices=EXTRACTOR, help="features: of pixels, a classifier, Inception or DINOv2"
    )


@dataclass
class Frechet(FeatureMetric):
    extractor: str = option(
        "classifier",
        choices=EXTRACTOR,
        help="features: of pixels, a classifier, Inception or DINOv2",
    )
    reference: Optional[str] = option(
        None,
        help="published statistics (.npz of ADM's, .pt of torch-fidelity's); "
        "null: the training split",
    )


@dataclass
class KernelDistance(FeatureMetric):
    extractor: str = option(
        "classifier",
        choices=EXTRACTOR,
        help="features: of pixels, a classifier, Inception or DINOv2",
    )


@dataclass
class InceptionScore(Metric):
    extractor: str = option(
        "inception",
        choices=CLASS_EXTRACTOR,
        help="features: of pixels, a classifier, Inception or DINOv2",
    )


METRICS = "dit_lab.evaluation.metrics.components"

COMPONENTS: dict[str, dict[str, type[Component]]] = {
    "metric": {
        f"{METRICS}.TwoSample": FeatureMetric,
        f"{METRICS}.PrecisionRecall": FeatureMetric,
        f"{METRICS}.DensityCoverage": FeatureMetric,
        f"{METRICS}.KernelDistance": KernelDistance,
        f"{METRICS}.Memorisation": FeatureMetric,
        f"{METRICS}.Frechet": Frechet,
        f"{METRICS}.InceptionScore": InceptionScore,
        f"{METRICS}.ClassAccuracy": Metric,
    }
}
