"""Power-function averages that are kept from time to time: what other widths are made of later.

    averages/step-00001000/  power-0.05.safetensors  power-0.1.safetensors  state.json  COMPLETE

Written as checkpoints are, in float16, and never removed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dit_lab.training.background import BackgroundSaver
from dit_lab.training.checkpoint_store import CheckpointStore
from dit_lab.training.ema import Average


class Snapshots:
    """Writes averages every so many steps, while training goes on.

    A checkpoint must not be written before the snapshots of earlier steps are: training that goes
    on from it does not come by there again. That of its own step may still be under way.
    """

    def __init__(
        self, store: CheckpointStore | None, *, averages: Sequence[Average], every_steps: int
    ) -> None:
        """No store: there is nothing to write, or another process writes what this one has."""
        self._saver = BackgroundSaver(store, dtype=torch.float16)
        self._averages = averages
        self.every_steps = every_steps

    def save(self, step: int) -> None:
        """Save the averages as they are now; a whole snapshot of this step is left as it is."""
        self._saver.save(
            step,
            tensors={average.name: average.shadow for average in self._averages},
            state={
                "step": step,
                "averages": {average.name: average.scalars() for average in self._averages},
            },
        )

    def check(self) -> None:
        """Raise what went wrong, if that is known by now."""
        self._saver.check()

    def wait(self) -> None:
        """Return when everything is on the disk; raise where it is not."""
        self._saver.wait()
