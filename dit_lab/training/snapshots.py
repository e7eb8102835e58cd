"""Snapshots of power-function averages, from which post-hoc EMAs are computed.

    averages/step-00001000/  power-0.05.safetensors  power-0.1.safetensors  state.json  COMPLETE

Written like checkpoints, in float16, and never removed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dit_lab.training.background import BackgroundSaver
from dit_lab.training.checkpoint_store import CheckpointStore
from dit_lab.training.ema import Average


class Snapshots:
    """Saves averages at regular steps, asynchronously.

    Snapshots of earlier steps must be written before a checkpoint is: a run that resumes from the
    checkpoint does not repeat these steps. The snapshot of the checkpoint's own step may still be
    in progress.
    """

    def __init__(
        self, store: CheckpointStore | None, *, averages: Sequence[Average], every_steps: int
    ) -> None:
        """Prepare saving; `store` is None if another process writes or nothing is to be written."""
        self._saver = BackgroundSaver(store, dtype=torch.float16)
        self._averages = averages
        self.every_steps = every_steps

    def save(self, step: int) -> None:
        """Save the current averages; an intact snapshot of this step is kept."""
        self._saver.save(
            step,
            tensors={average.name: average.shadow for average in self._averages},
            state={
                "step": step,
                "averages": {average.name: average.scalars() for average in self._averages},
            },
        )

    def check(self) -> None:
        """Raise the error of the thread if it has already failed; does not wait."""
        self._saver.check()

    def wait(self) -> None:
        """Wait until everything is on disk; raise the error of the thread if it failed."""
        self._saver.wait()
