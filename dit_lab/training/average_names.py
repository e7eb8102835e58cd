"""Names of the averages that a training keeps. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence

from dit_lab.training.optimizers.options import SCHEDULE_FREE as OPTIMIZER

SCHEDULE_FREE = "schedule_free"
"""Name of the average of schedule-free AdamW, in files and in `sample.weights`."""


def averages_of(optimizer: str, decays: Sequence[float]) -> list[str]:
    """Return the names of the averages of a training; `optimizer` is the optimizer's `_target_`."""
    own = [SCHEDULE_FREE] if optimizer == OPTIMIZER else []
    return [*own, *(f"ema-{decay}" for decay in decays)]


def first_average(optimizer: str, decays: Sequence[float]) -> str:
    """Return the average to sample and evaluate unless `sample.weights` names another one."""
    return averages_of(optimizer, decays)[0]
