"""Collective operations of a single process; see tests/integration/test_team.py for several."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dit_lab.core.team import ALONE, shared_out


class Second:
    """A stand-in for the second of three processes, with given results of the others."""

    index, size = 1, 3

    def __init__(self) -> None:
        self.computed: list[object] = []

    def every(self, compute: Callable[[], object]) -> list[object]:
        self.computed.append(compute())
        return ["first", self.computed[-1], "third"]


def test_alone() -> None:
    assert ALONE.first(lambda: 3) == 3
    assert ALONE.every(lambda: 3) == [3]
    assert ALONE.largest(3) == 3
    with pytest.raises(ZeroDivisionError):
        ALONE.first(lambda: 1 // 0)
    assert list(shared_out(ALONE, [1, 2, 3], lambda item: -item)) == [-1, -2, -3]


def test_work_is_shared_out_in_rounds() -> None:
    """With four items and three processes, the second process computes only the second item."""
    team = Second()
    shared = shared_out(team, "abcd", str.upper)  # type: ignore[arg-type]
    assert list(shared) == ["first", "B", "third", "first"]
    assert team.computed == ["B", None]
