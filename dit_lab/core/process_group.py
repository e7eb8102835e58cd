"""Process groups that share results, errors and work."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from typing import Any, TypeVar

import torch
from torch import distributed

from dit_lab.core.types import ProcessGroup, Result

Item = TypeVar("Item")


class SingleProcess:
    """A single process. Implements `types.ProcessGroup`."""

    index = 0
    size = 1

    def first(self, compute: Callable[[], Result]) -> Result:
        return compute()

    def every(self, compute: Callable[[], Result]) -> list[Result]:
        return [compute()]

    def largest(self, number: int) -> int:
        return number


SINGLE_PROCESS = SingleProcess()


class TorchProcessGroup:
    """Several processes, connected by a group on the CPU. Implements `types.ProcessGroup`.

    If a process dies, its closed connection raises an error in all others.
    """

    def __init__(self, group: distributed.ProcessGroup) -> None:
        self._group = group
        self.index, self.size = group.rank(), group.size()

    def first(self, compute: Callable[[], Result]) -> Result:
        outcome = [_outcome(compute) if self.index == 0 else None]
        distributed.broadcast_object_list(outcome, src=0, group=self._group)
        result: Result = _results(outcome)[0]
        return result

    def every(self, compute: Callable[[], Result]) -> list[Result]:
        outcomes: list[Any] = [None] * self.size
        distributed.all_gather_object(outcomes, _outcome(compute), group=self._group)
        return _results(outcomes)

    def largest(self, number: int) -> int:
        largest = torch.tensor(number)
        distributed.all_reduce(largest, distributed.ReduceOp.MAX, group=self._group)
        return int(largest)


class _Raised:
    """An exception of one process, to be sent to the others."""

    def __init__(self, error: Exception) -> None:
        try:
            deepcopy(error)
        except Exception:  # not every exception can be pickled
            error = RuntimeError(f"{type(error).__name__}: {error}")
        self.error = error


def _outcome(compute: Callable[[], Any]) -> Any:
    try:
        return compute()
    except Exception as error:
        return _Raised(error)


def _results(outcomes: list[Any]) -> list[Any]:
    for outcome in outcomes:
        if isinstance(outcome, _Raised):
            raise outcome.error
    return outcomes


def map_over_ranks(
    process_group: ProcessGroup, items: Sequence[Item], compute: Callable[[Item], Result]
) -> Iterator[Result]:
    """Yield `compute` of every item, in order; each item is computed by one process, in rounds.

    Every process must consume all results. If one raises, all raise in the same round.
    """
    for start in range(0, len(items), process_group.size):
        part = items[start : start + process_group.size]

        def mine(part: Sequence[Item] = part) -> Result | None:
            return compute(part[process_group.index]) if process_group.index < len(part) else None

        results = process_group.every(mine)[: len(part)]
        yield from results  # type: ignore[misc]  # only processes without an item return None
