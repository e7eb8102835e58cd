"""Collective operations of a single process; see tests/integration/test_team.py for several."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dit_lab.core.process_group import SINGLE_PROCESS, map_over_ranks


class Second:
    """A stand-in for the second of three processes, with given results of the others."""

    index, size = 1, 3

    def __init__(self) -> None:
        self.computed: list[object] = []

    def every(self, compute: Callable[[], object]) -> list[object]:
        self.computed.append(compute())
        return ["first", self.computed[-1], "third"]


def test_alone() -> None:
    assert SINGLE_PROCESS.first(lambda: 3) == 3
    assert SINGLE_PROCESS.every(lambda: 3) == [3]
    assert SINGLE_PROCESS.largest(3) == 3
    with pytest.raises(ZeroDivisionError):
        SINGLE_PROCESS.first(lambda: 1 // 0)
    assert list(map_over_ranks(SINGLE_PROCESS, [1, 2, 3], lambda item: -item)) == [-1, -2, -3]


def test_work_is_shared_out_in_rounds() -> None:
    """With four items and three processes, the second process computes only the second item."""
    process_group = Second()
    shared = map_over_ranks(process_group, "abcd", str.upper)  # type: ignore[arg-type]
    assert list(shared) == ["first", "B", "third", "first"]
    assert process_group.computed == ["B", None]
