"""Reading ahead in worker processes, which end with the reader and leave stopping to it."""

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

AHEAD = 2  # items that a worker has ready or in work, beyond the one that was taken last


class Tensors(Protocol):
    """A record of tensors."""

    def each(self, change: Callable[[Tensor], Tensor]) -> Self:
        """The record with every tensor changed."""


Record = TypeVar("Record", bound=Tensors)


def read_ahead(
    items: TorchDataset[Any], *, num_workers: int, **options: Any
) -> Generator[Any, None, None]:
    """What a DataLoader with these options gives, unchanged, read by `num_workers` processes.

    An item that is a RequestError is raised here: raised in a worker, it would come wrapped in the
    worker's own traceback.
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
        if not num_workers or "Caught" in str(error):  # the dataset's own, in a worker's words
            raise
        # A worker that was killed while it handed a batch over: torch says nothing of it.
        raise RuntimeError(f"DataLoader worker exited unexpectedly ({error})") from error
    finally:
        # Left to the garbage collector, workers outlive an error: its traceback refers to them,
        # and at exit the one SIGTERM that they are sent is the one that they ignore. torch has no
        # public call for it; without this one, workers end with the last reference to the iterator.
        getattr(iterator, "_shutdown_workers", lambda: None)()
        del iterator


class Transfer:
    """Copies records of tensors to a device: on CUDA beside the step that it still computes.

    Copies run on a stream of their own, from pinned memory; who computes next waits for them on
    the device, not on the host.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, record: Record) -> Record:
        """The record on the device; itself where it is there already."""
        if self._stream is None:
            return record.each(lambda tensor: tensor.to(self._device))
        with torch.cuda.stream(self._stream):
            moved = record.each(lambda tensor: tensor.to(self._device, non_blocking=True))
        computing = torch.cuda.current_stream(self._device)
        computing.wait_stream(self._stream)
        return moved.each(lambda tensor: _used_by(computing, tensor))


def _used_by(stream: torch.cuda.Stream, tensor: Tensor) -> Tensor:
    """The tensor, whose memory is not given to others before this stream has done with it."""
    tensor.record_stream(stream)
    return tensor


def messages_of(dataset: Dataset) -> tuple[str, ...]:
    """What a dataset in a worker process has to say of what it gave last, if it ever does."""
    messages = getattr(dataset, "messages", None)
    return () if messages is None else tuple(messages())


def _unchanged(batch: Any) -> Any:
    return batch


def _leave_stopping_to_the_main_process(worker: int) -> None:
    """Schedulers and terminals signal all processes: a worker that died would fail the run.

    A second SIGTERM ends the worker: that one is the main process's, which is leaving.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, _: signal.signal(number, signal.SIG_DFL))
