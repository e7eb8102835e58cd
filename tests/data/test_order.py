"""The training order: a pure function of (seed, global sample counter)."""

from __future__ import annotations

import pytest
import torch

from dit_lab.core.errors import RequestError
from dit_lab.core.rng import permutation
from dit_lab.data.order import SampleOrder

NUM_IMAGES = 37
COUNTERS = torch.arange(4 * NUM_IMAGES)


def test_every_image_stands_once_in_every_epoch() -> None:
    epochs = SampleOrder(0, NUM_IMAGES).indices(COUNTERS).view(4, NUM_IMAGES)
    assert torch.equal(epochs.sort(dim=1).values, torch.arange(NUM_IMAGES).expand(4, -1))
    assert len({tuple(epoch.tolist()) for epoch in epochs}) == 4  # and in another order


def test_an_epoch_is_its_own_permutation() -> None:
    indices = SampleOrder(5, NUM_IMAGES).indices(COUNTERS)
    assert torch.equal(
        indices[2 * NUM_IMAGES : 3 * NUM_IMAGES], permutation(5, "order", 2, NUM_IMAGES)
    )


@pytest.mark.parametrize("batch_size", [1, 5, 37, 64, 148])
def test_batch_size_changes_nothing(batch_size: int) -> None:
    order = SampleOrder(0, NUM_IMAGES)
    pieces = [order.indices(batch) for batch in COUNTERS.split(batch_size)]
    assert torch.equal(torch.cat(pieces), SampleOrder(0, NUM_IMAGES).indices(COUNTERS))


def test_processes_that_share_each_batch_see_the_same_order() -> None:
    whole = SampleOrder(0, NUM_IMAGES).indices(COUNTERS)
    seen = torch.empty_like(whole)
    for rank in range(2):  # each process has an object of its own
        order = SampleOrder(0, NUM_IMAGES)
        for batch in COUNTERS.view(-1, 4):  # 37 is odd: some batches straddle two epochs
            share = batch.view(2, 2)[rank]
            seen[share] = order.indices(share)
    assert torch.equal(seen, whole)


def test_resuming_is_counting_on() -> None:
    whole = SampleOrder(0, NUM_IMAGES).indices(COUNTERS)
    for stop in (1, 36, 37, 38, 100):
        resumed = SampleOrder(0, NUM_IMAGES).indices(COUNTERS[stop:])
        assert torch.equal(resumed, whole[stop:])


def test_counters_may_come_in_any_order() -> None:
    shuffled = torch.randperm(len(COUNTERS), generator=torch.Generator().manual_seed(0))
    whole = SampleOrder(0, NUM_IMAGES).indices(COUNTERS)
    assert torch.equal(SampleOrder(0, NUM_IMAGES).indices(shuffled), whole[shuffled])


def test_the_seed_matters() -> None:
    first, second = (SampleOrder(seed, NUM_IMAGES).indices(COUNTERS) for seed in (0, 1))
    assert not torch.equal(first, second)


def test_only_the_epochs_in_use_are_held() -> None:
    order = SampleOrder(0, NUM_IMAGES)
    for batch in COUNTERS.split(8):
        order.indices(batch)
        assert len(order._permutations) <= 2


def test_counters_far_along_keep_their_precision() -> None:
    far = torch.tensor([2**53 + 1, 2**53 + 2])  # no float64 tells these apart from neighbours
    epoch, place = divmod(2**53 + 1, NUM_IMAGES)
    expected = permutation(0, "order", epoch, NUM_IMAGES)[place : place + 2]
    assert torch.equal(SampleOrder(0, NUM_IMAGES).indices(far)[: len(expected)], expected)


def test_no_images_are_refused() -> None:
    with pytest.raises(RequestError, match="at least one image"):
        SampleOrder(0, 0)
