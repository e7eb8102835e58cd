"""Asynchronous saving of checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from dit_lab.training.checkpoint import Measured
from dit_lab.training.checkpoint_store import CheckpointStore, Tensors
from dit_lab.training.tensor_files import rows_of


class BackgroundSaver:
    """Saves one checkpoint at a time in a thread; training waits only while tensors are copied.

    The copy takes as much host memory as this process writes. An error in the thread is raised by
    the next call.
    """

    def __init__(self, store: CheckpointStore | None, *, dtype: torch.dtype | None = None) -> None:
        """Create the thread.

        Args:
            store: where checkpoints are written; None if another process saves everything that this
                one holds, so that every method does nothing.
            dtype: precision of the tensors on disk; None keeps their own.
        """
        self._store, self._dtype = store, dtype
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._writing: Future[Any] | None = None

    def save(self, step: int, *, tensors: Tensors, state: Mapping[str, Any]) -> None:
        """Copy everything, after the previous checkpoint is written, and write it in the thread."""
        if self._store is None:
            return
        self.wait()
        copies = {
            name: {key: rows_of(tensor).on_the_host(self._dtype) for key, tensor in group.items()}
            for name, group in tensors.items()
        }
        self._writing = self._thread.submit(self._store.save, step, tensors=copies, state=state)

    def note(self, step: int, measured: Measured) -> None:
        """Store the evaluations of a step with its checkpoint, after that is written."""
        if self._store is None:
            return
        store, before = self._store, self._writing

        def write() -> None:
            if before is not None:
                before.result()  # has finished; raises its error
            store.note(step, measured)

        self._writing = self._thread.submit(write)

    def check(self) -> None:
        """Raise the error of the thread if it has already failed; does not wait."""
        if self._writing is not None and self._writing.done():
            self.wait()

    def wait(self) -> None:
        """Wait until everything is on disk; raise the error of the thread if it failed."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()
