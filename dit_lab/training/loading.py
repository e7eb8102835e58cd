"""Prefetching of batches in worker processes, and their transfer to the device."""

from __future__ import annotations

import signal
from collections.abc import Callable, Generator
from typing import Any, Protocol, Self, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from dit_lab.core.errors import RequestError
from dit_lab.core.types import Dataset

AHEAD = 2  # items that each worker prefetches


class Tensors(Protocol):
    """A record of tensors."""

    def each(self, change: Callable[[Tensor], Tensor]) -> Self:
        """Apply `change` to every tensor."""


Record = TypeVar("Record", bound=Tensors)


def read_ahead(
    items: TorchDataset[Any], *, num_workers: int, **options: Any
) -> Generator[Any, None, None]:
    """Yield the items of a DataLoader with these options, uncollated.

    An item that is a RequestError is raised here, because an error raised in a worker would include
    the worker's traceback.

    Args:
        items: the dataset.
        num_workers: number of worker processes; 0 reads in this process.
        **options: further options of the DataLoader.
    """
    loader = DataLoader(
        items,
        num_workers=num_workers,
        prefetch_factor=AHEAD if num_workers else None,
        collate_fn=_unchanged,
        worker_init_fn=_leave_stopping_to_the_main_process,
        **options,
    )
    iterator = iter(loader)
    try:
        for item in iterator:
            if isinstance(item, RequestError):
                raise item
            yield item
    except (ConnectionError, EOFError) as error:
        if not num_workers or "Caught" in str(error):  # a dataset's own error
            raise
        # A worker was killed while it sent a batch; torch does not report this case itself.
        raise RuntimeError(f"DataLoader worker exited unexpectedly ({error})") from error
    finally:
        # Shut the workers down here: after an error, its traceback keeps the iterator alive, and
        # at exit they receive only one SIGTERM, which they ignore. torch has no public method for
        # this; without the private one, workers end with the last reference to the iterator.
        getattr(iterator, "_shutdown_workers", lambda: None)()
        del iterator


class Transfer:
    """Copies records of tensors to a device; on CUDA, asynchronously to the current step.

    Copies run on a stream of their own, from pinned memory. The computing stream waits for them on
    the device; the host does not wait.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, record: Record) -> Record:
        """Return the record on the device."""
        if self._stream is None:
            return record.each(lambda tensor: tensor.to(self._device))
        with torch.cuda.stream(self._stream):
            moved = record.each(lambda tensor: tensor.to(self._device, non_blocking=True))
        computing = torch.cuda.current_stream(self._device)
        computing.wait_stream(self._stream)
        return moved.each(lambda tensor: _used_by(computing, tensor))


def _used_by(stream: torch.cuda.Stream, tensor: Tensor) -> Tensor:
    """Mark the tensor as used by a stream, so that its memory is not reused too early."""
    tensor.record_stream(stream)
    return tensor


def messages_of(dataset: Dataset) -> tuple[str, ...]:
    """Return the messages of a dataset in a worker process about its last item, if it has any."""
    messages = getattr(dataset, "messages", None)
    return () if messages is None else tuple(messages())


def _unchanged(batch: Any) -> Any:
    return batch


def _leave_stopping_to_the_main_process(worker: int) -> None:
    """Ignore SIGINT and the first SIGTERM in a worker.

    Schedulers and terminals signal all processes, and a worker that died would fail the run. A
    second SIGTERM ends the worker: the main process sends it when it exits.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, _: signal.signal(number, signal.SIG_DFL))
