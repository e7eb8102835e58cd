"""Reading ahead in worker processes, which end with the reader and leave stopping to it."""

from __future__ import annotations

import signal
from collections.abc import Generator
from typing import Any

from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from dit_lab.types import Dataset, RequestError


def read_ahead(
    items: TorchDataset, *, num_workers: int, **options: Any
) -> Generator[Any, None, None]:
    """What a DataLoader with these options gives, unchanged, read by `num_workers` processes.

    An item that is a RequestError is raised here: raised in a worker, it would come wrapped in the
    worker's own traceback.
    """
    loader = DataLoader(
        items,
        num_workers=num_workers,
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
    finally:
        # Left to the garbage collector, workers outlive an error: its traceback refers to them,
        # and at exit the one SIGTERM that they are sent is the one that they ignore.
        getattr(iterator, "_shutdown_workers", lambda: None)()


def messages_of(dataset: Dataset) -> tuple[str, ...]:
    """What a dataset has to say of what it gave last, if it ever does: images that it skipped."""
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
