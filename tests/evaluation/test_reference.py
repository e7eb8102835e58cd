"""Reference images: unchanged bytes, evenly spaced over the split, read in parts."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dit_lab.core.errors import StopRequested
from dit_lab.core.types import ImageSet
from dit_lab.data.digits import Digits
from dit_lab.evaluation.reference import FETCH_IMAGES, load_images


class Counting:
    """A list sorted by class: image i is i steps bright, its class is i // 100."""

    def __init__(self, size: int) -> None:
        self._size = size
        self.fetched: list[int] = []

    def __len__(self) -> int:
        return self._size

    def fetch(self, indices: Tensor, counters: Tensor | None) -> tuple[Tensor, Tensor]:
        assert counters is None  # real images are compared as they are, not augmented
        self.fetched.append(len(indices))
        images = indices.float().view(-1, 1, 1, 1).expand(-1, 3, 2, 4) / 127.5 - 1
        return images, indices // 100


def test_every_digit_comes_back_as_the_bytes_of_its_brightness(digits: Digits) -> None:
    """round(k * 255 / 16) for the brightness k, of all 1,437 training images in their order."""
    images = load_images(digits, at_most=10_000, levels=17)
    real, labels = digits.fetch(torch.arange(1437), None)
    byte_of = torch.tensor([round(k * 255 / 16) for k in range(17)], dtype=torch.uint8)
    brightness = ((real + 1) * 8).to(torch.int64)  # exact: eighths from -1 to 1
    assert torch.equal(images.pixels, byte_of[brightness].permute(0, 2, 3, 1))
    assert torch.equal(images.labels, labels)


def test_all_of_a_small_split_in_order() -> None:
    images = load_images(Counting(250), at_most=250, levels=256)
    assert torch.equal(images.pixels[:, 1, 3, 2], torch.arange(250).byte())
    assert torch.equal(images.labels, torch.arange(250) // 100)
    assert images.labels.dtype == torch.int64


@pytest.mark.parametrize("at_most", [1, 3, 100, 249])
def test_some_of_a_sorted_list_are_spread_over_it(at_most: int) -> None:
    images = load_images(Counting(250), at_most=at_most, levels=256)
    taken = images.pixels[:, 0, 0, 0].tolist()
    assert taken == [number * 250 // at_most for number in range(at_most)]
    assert len(set(taken)) == at_most


def test_files_are_read_in_parts() -> None:
    data = Counting(2 * FETCH_IMAGES + 5)
    images = load_images(data, at_most=10_000, levels=256)
    assert data.fetched == [FETCH_IMAGES, FETCH_IMAGES, 5]
    assert len(images) == len(images.labels) == len(data)


def stops_at(question: int) -> Callable[[], None]:
    """A `check_stop` of a process that is stopped at the n-th call."""
    asked = iter(range(1, question + 1))

    def check() -> None:
        if next(asked) == question:
            raise StopRequested(15)

    return check


def test_a_stop_is_heard_between_parts() -> None:
    data = Counting(1000)
    with pytest.raises(StopRequested):
        load_images(data, at_most=1000, levels=256, check_stop=stops_at(3))
    assert data.fetched == [FETCH_IMAGES] * 2


def test_sets_are_cut_with_their_labels() -> None:
    images = ImageSet(torch.arange(6).byte().view(6, 1, 1, 1), torch.arange(6) * 10)
    for which in (slice(2, 4), torch.tensor([2, 3])):
        part = images[which]
        assert (part.pixels.flatten().tolist(), part.labels.tolist()) == ([2, 3], [20, 30])
        assert len(part) == 2
