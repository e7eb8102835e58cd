"""Records of tensors from worker processes, through shared memory that is written again and again.

Fresh shared memory for each record, which is what a DataLoader makes of tensors, costs more than
reading it: the system clears and maps every page, and hands over a file descriptor per tensor.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple, Protocol, Self, TypeVar

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from dit_lab.core.errors import RequestError

_ALIGNMENT = 64  # bytes, of a processor's cache line


class Tensors(Protocol):
    """A record of tensors."""

    def each(self, change: Callable[[Tensor], Any]) -> Self:
        """The record with every tensor changed, always in the same order."""


Record = TypeVar("Record", bound=Tensors)


class Place(NamedTuple):
    """Where a tensor lies in the memory of its record."""

    start: int  # bytes
    shape: torch.Size
    dtype: torch.dtype

    @property
    def end(self) -> int:
        return self.start + prod(self.shape) * self.dtype.itemsize

    def in_memory(self, memory: Tensor) -> Tensor:
        return memory[self.start : self.end].view(self.dtype).view(self.shape)


class Packed(NamedTuple):
    """A record whose tensors lie in one piece of memory."""

    record: Any  # places instead of tensors
    memory: Tensor  # (bytes,) uint8

    def pin_memory(self) -> Packed:
        """The same in memory that a device copies from by itself; a DataLoader asks for this."""
        return self._replace(memory=self.memory.pin_memory())

    def unpacked(self) -> Any:
        """The record, of views on the memory."""
        return self.record.each(lambda place: place.in_memory(self.memory))


class Packer:
    """Packs a worker's records into `slots` pieces of shared memory, in turn."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._memory: dict[int, Tensor] = {}
        self._packed = 0

    def __call__(self, record: Record | RequestError) -> Record | RequestError | Packed:
        """The record, packed; itself in the main process, where nothing is handed over."""
        if isinstance(record, RequestError) or get_worker_info() is None:
            return record
        tensors: list[tuple[Place, Tensor]] = []
        end = 0

        def placed(tensor: Tensor) -> Place:
            nonlocal end
            place = Place(end, tensor.shape, tensor.dtype)
            end = -(-place.end // _ALIGNMENT) * _ALIGNMENT
            tensors.append((place, tensor))
            return place

        places = record.each(placed)
        memory = self._next(end)
        for place, tensor in tensors:
            place.in_memory(memory).copy_(tensor)
        return Packed(places, memory)

    def _next(self, num_bytes: int) -> Tensor:
        """The memory of the slot whose turn it is, of at least so many bytes."""
        slot = self._packed % self.slots
        self._packed += 1
        if slot not in self._memory or len(self._memory[slot]) < num_bytes:
            self._memory[slot] = torch.empty(num_bytes, dtype=torch.uint8).share_memory_()
        return self._memory[slot]
