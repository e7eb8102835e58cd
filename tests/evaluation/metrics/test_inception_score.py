"""The inception score against known values and torch-fidelity."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dit_lab.evaluation.metrics.inception_score import inception_score


@pytest.mark.parametrize("classes", [1, 4, 10])
def test_sure_and_even_is_the_number_of_classes(classes: int) -> None:
    sure = np.tile(np.eye(classes), (10, 1))  # in each of ten parts every class once
    assert inception_score(sure) == pytest.approx(classes, rel=1e-14)


def test_unsure_or_all_alike_is_one() -> None:
    assert inception_score(np.full((50, 8), 1 / 8)) == pytest.approx(1, abs=1e-14)
    assert inception_score(np.eye(8)[np.zeros(50, int)]) == 1
    assert inception_score(np.tile([0.7, 0.2, 0.1], (50, 1))) == pytest.approx(1, abs=1e-14)


def test_two_classes_by_hand() -> None:
    """p is 3/4 and 1/4 or the reverse: KL to halves is log 2 less the entropy of (3/4, 1/4)."""
    both = np.tile([[0.75, 0.25], [0.25, 0.75]], (10, 1))
    expected = 2 * 0.75**0.75 * 0.25**0.25
    assert inception_score(both) == pytest.approx(expected, rel=1e-14)


def test_parts_are_consecutive_and_have_means_of_their_own() -> None:
    """Images are sorted by class: each of two parts has one class, the whole set has both."""
    ordered = np.repeat(np.eye(2), 30, axis=0)
    assert inception_score(ordered, splits=2) == 1
    assert inception_score(ordered, splits=1) == pytest.approx(2, rel=1e-14)


def test_float32_is_widened() -> None:
    """exp of a mean near 0, of numbers that float32 would have rounded to 1e-7."""
    almost = np.tile(np.float32([0.5, 0.5]), (1000, 1))
    almost[::2] += np.float32([1e-4, -1e-4])
    # +-5e-5 from a half: KL of (2 x 5e-5)^2 / 2
    assert inception_score(almost) - 1 == pytest.approx(5e-9, rel=1e-3)


@pytest.mark.parametrize("count", [10, 57, 200])
def test_as_torch_fidelity(count: int) -> None:
    """Also if ten does not divide the number of images."""
    metric = pytest.importorskip("torch_fidelity.metric_isc")
    logits = 3 * torch.randn(count, 20, generator=torch.Generator().manual_seed(0)).double()
    found = metric.isc_features_to_metric(logits, splits=10, shuffle=False)
    assert inception_score(logits.softmax(1).numpy()) == pytest.approx(
        found[metric.KEY_METRIC_ISC_MEAN], rel=1e-12
    )
