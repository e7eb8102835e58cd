"""Slots in which jobs run in parallel: sets of devices with their environments. Torch-free."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from dit_lab.core.errors import RequestError
from dit_lab.core.processes import gpus, threads_each

FOREIGN = (
    "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR",
    "MASTER_PORT", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME",
)  # fmt: skip
"""Variables of the process that starts the sweep, which a job would take for its own."""


@dataclass(frozen=True, slots=True)
class Slot:
    """A place for one job at a time."""

    devices: str  # for CUDA_VISIBLE_DEVICES; "" is the CPU
    threads: int | None  # of a job on the CPU; None leaves them to torch

    def environment(self) -> dict[str, str]:
        """Return the whole environment of a job in this slot."""
        kept = {name: value for name, value in os.environ.items() if name not in FOREIGN}
        if self.threads is not None:
            kept.setdefault("OMP_NUM_THREADS", str(self.threads))
        return {**kept, "CUDA_VISIBLE_DEVICES": self.devices, "PYTHONUNBUFFERED": "1"}


def make_slots(asked: str | Sequence[str | int], *, jobs_per_slot: int) -> list[Slot]:
    """Return the slots of `sweep.slots`, each as often as jobs may share it.

    "auto" is one slot per GPU, or the CPU if there is none. Jobs on the CPU share its threads.
    """
    if isinstance(asked, str):
        if asked != "auto":
            raise RequestError(
                f"sweep.slots={asked}: expected auto or a list of device sets, such as [0,1] or "
                "['0,1','2,3'], with cpu for the CPU"
            )
        devices = gpus() or [""]
    else:
        devices = ["" if str(item) == "cpu" else str(item) for item in asked]
    places = [name for name in devices for _ in range(jobs_per_slot)]
    if not places:
        raise RequestError("sweep.slots=[]: no slot for a job; give at least one device set")
    on_cpu = places.count("")
    threads = threads_each(on_cpu) if on_cpu else None
    return [Slot(name, None if name else threads) for name in places]
