"""Requirements of the metric list, and refused lists, without any image."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dit_lab.config.checks.metrics import (
    check_metrics,
    evaluation_intervals,
    extractors_of,
    why_unmeasured,
)
from dit_lab.config.compose import compose_train
from dit_lab.config.schema import RunConfig
from dit_lab.core.errors import RequestError
from dit_lab.core.types import Shapes
from dit_lab.data.digits_facts import digits_facts
from dit_lab.evaluation.options import EXTRACTOR, FeatureMetric, Metric

ACCURACY = Metric("dit_lab.evaluation.metrics.components.ClassAccuracy", every_steps=7)


def config(**metrics: Metric) -> RunConfig:
    given = ["evaluation.num_images=2048", "training.evaluate_every_steps=100"]
    return replace(compose_train(["experiment=quickstart", *given]), metric=metrics)


def own(extractor: str) -> Metric:
    return FeatureMetric("mylab.Mine", extractor=extractor)


def test_an_extractor_that_there_is_not_is_refused_of_a_metric_of_ones_own() -> None:
    for extractor in EXTRACTOR:
        check_metrics(config(mine=own(extractor)), digits_facts())
    with pytest.raises(RequestError, match=r"^metric.mine.extractor=resnet: expected one of pix"):
        check_metrics(config(mine=own("resnet")), digits_facts())


def test_what_is_looked_through() -> None:
    """Class accuracy by the classifier, where there are classes."""
    both = config(mine=own("pixels"), other=own("pixels"), accuracy=ACCURACY)
    assert extractors_of(both, num_classes=10) == ["classifier", "pixels"]
    assert extractors_of(both, num_classes=0) == ["pixels"]


def test_a_larger_held_out_share_is_proposed_where_that_is_what_lacks() -> None:
    facts = replace(digits_facts(), train_images=55, validation_images=5)
    folder = compose_train(["experiment=own_images", "dataset.root=photos"])
    said = why_unmeasured(folder, Shapes(facts, (3, 32, 32)))
    assert said.endswith("held-out images are the least; use dataset.validation_share=0.4")
    own = compose_train(["experiment=quickstart"])
    assert why_unmeasured(own, Shapes(facts, (1, 8, 8))).endswith("images are the least")
    assert why_unmeasured(own, Shapes(digits_facts(), (1, 8, 8))) == ""


def test_cadences() -> None:
    listed = config(mine=own("pixels"), accuracy=ACCURACY, last=replace(ACCURACY, every_steps=0))
    assert evaluation_intervals(listed) == {"mine": 100, "accuracy": 7, "last": 0}
