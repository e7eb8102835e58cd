"""Which averages a training keeps, by the names of their files. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence

from dit_lab.training.optimizers.options import SCHEDULE_FREE as OPTIMIZER

SCHEDULE_FREE = "schedule_free"
"""The average of the optimizer of that name, and what `sample.weights` calls it."""


def averages_of(optimizer: str, decays: Sequence[float]) -> list[str]:
    """Names of the averages of a training with an optimizer, by its `_target_`."""
    own = [SCHEDULE_FREE] if optimizer == OPTIMIZER else []
    return [*own, *(f"ema-{decay}" for decay in decays)]


def first_average(optimizer: str, decays: Sequence[float]) -> str:
    """The one of them that is sampled and evaluated where `sample.weights` does not say another."""
    return averages_of(optimizer, decays)[0]
