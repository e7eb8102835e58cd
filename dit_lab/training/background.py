"""Checkpoints that are written while training goes on."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from dit_lab.training.checkpoint import Measured
from dit_lab.training.checkpoint_store import CheckpointStore, Tensors
from dit_lab.training.tensor_files import rows_of


class BackgroundSaver:
    """Writes one checkpoint at a time in a thread; only copying the tensors holds training up.

    The copy takes as much of the host's memory as this process has to write. What goes wrong in the
    thread is raised by the next call.
    """

    def __init__(self, store: CheckpointStore | None, *, dtype: torch.dtype | None = None) -> None:
        """No store: another process saves all that this one has, and here nothing is done.

        `dtype` is that of the tensors on the disk, their own where None.
        """
        self._store, self._dtype = store, dtype
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._writing: Future[Any] | None = None

    def save(self, step: int, *, tensors: Tensors, state: Mapping[str, Any]) -> None:
        """Save everything as it is now, once the checkpoint before is written."""
        if self._store is None:
            return
        self.wait()
        copies = {
            name: {key: rows_of(tensor).on_the_host(self._dtype) for key, tensor in group.items()}
            for name, group in tensors.items()
        }
        self._writing = self._thread.submit(self._store.save, step, tensors=copies, state=state)

    def note(self, step: int, measured: Measured) -> None:
        """Put what was measured at a step beside its checkpoint, once that is written."""
        if self._store is None:
            return
        store, before = self._store, self._writing

        def write() -> None:
            if before is not None:
                before.result()  # done by now, or what went wrong
            store.note(step, measured)

        self._writing = self._thread.submit(write)

    def check(self) -> None:
        """Raise what went wrong, if that is known by now."""
        if self._writing is not None and self._writing.done():
            self.wait()

    def wait(self) -> None:
        """Return when everything is on the disk; raise where it is not."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()
