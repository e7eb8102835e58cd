"""What the list of metrics asks for, and what is refused of it, without any image."""

from __future__ import annotations

from typing import Any

import pytest

from dit_lab.config.checks.metrics import cadences, check_metrics, extractors_of
from dit_lab.core.errors import RequestError
from dit_lab.data.facts import digits_facts
from dit_lab.evaluation.options import EXTRACTOR

ACCURACY = {"_target_": "dit_lab.evaluation.metrics.components.ClassAccuracy", "every_steps": 7}


def config(**metrics: dict[str, Any]) -> dict[str, Any]:
    return {
        "metric": metrics,
        "evaluation": {"num_images": 2048},
        "training": {"evaluate_every_steps": 100},
    }


def own(extractor: str) -> dict[str, Any]:
    return {"_target_": "mylab.Mine", "extractor": extractor, "every_steps": None}


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


def test_cadences() -> None:
    listed = config(mine=own("pixels"), accuracy=ACCURACY, last={**ACCURACY, "every_steps": 0})
    assert cadences(listed) == {"mine": 100, "accuracy": 7, "last": 0}
