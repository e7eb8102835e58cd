"""The timesteps of a respaced sampler, and errors for impossible numbers of steps."""

from __future__ import annotations

import pytest

from dit_lab.core.errors import RequestError
from dit_lab.samplers.respacing import even, stride, visited


def test_even_spacing() -> None:
    assert even(1000, 10) == [0, 111, 222, 333, 444, 555, 666, 777, 888, 999]
    assert even(1000, 2) == [0, 999]
    assert even(50, 50) == list(range(50))
    # 499.5 on paper; summing 49.95 ten times falls short of the tie, and so did the original
    assert even(1000, 21)[10] == 499
    for steps in range(2, 1001):
        timesteps = even(1000, steps)
        assert timesteps[0] == 0 and timesteps[-1] == 999
        assert timesteps == sorted(set(timesteps)) and len(timesteps) == steps


def test_stride_spacing() -> None:
    assert stride(1000, 10) == list(range(0, 1000, 100))
    assert stride(1000, 50) == list(range(0, 1000, 20))
    assert stride(1000, 3) == [0, 334, 668]  # the smallest stride with three: 334, not 499
    assert stride(100, 100) == list(range(100))


@pytest.mark.parametrize(
    ("spacing", "steps", "message"),
    [
        ("even", 1, "use 2 to 1000"),
        ("even", 1001, "use 2 to 1000"),
        ("stride", 45, "exactly 45 of 1000 timesteps; use 44 or 46, or spacing=even"),
        ("stride", 300, "use 250 or 334"),
        ("stride", 1, "use 2, or"),
        ("stride", 2000, "use 1000, or"),
        ("random", 10, "unknown 'random'; use even or stride"),
    ],
)
def test_impossible_spacings_name_what_works(spacing: str, steps: int, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        visited(spacing, 1000, steps)
