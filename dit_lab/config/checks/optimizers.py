"""Checks of the optimizer against the parameters and the installed packages. Torch-free."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from dit_lab.config.components import load_component
from dit_lab.config.schema import RunConfig
from dit_lab.core.errors import RequestError
from dit_lab.core.options import Component, arguments_of, target_of
from dit_lab.training.optimizers.options import (
    COMPONENTS,
    MEMBERS,
    NEVER,
    SCHEDULE_FREE,
    WITHOUT_SHARDS,
    WITHOUT_SHARDS_IF_FUSED,
    Optimizer,
    kinds_in,
)


def check_optimizer_settings(config: RunConfig) -> None:
    """Raise RequestError for an optimizer that cannot train this configuration."""
    optimizer = config.optimizer
    target = target_of(optimizer)
    if target in NEVER:
        raise RequestError(f"optimizer._target_={target}: {NEVER[target]}")
    _check_betas(optimizer)
    _check_groups(optimizer)
    for kind in dict.fromkeys([target, *kinds_in(optimizer.groups)]):
        _check_package(kind)
        if config.distributed.sharded:
            _check_shards(kind, optimizer, config.choices["distributed"])
    if target == SCHEDULE_FREE:
        _check_schedule(config)


def _named(target: str) -> str:
    """Return the override that chooses an optimizer."""
    names = {known: name for name, known in MEMBERS.items()}
    return f"optimizer={names[target]}" if target in names else f"optimizer._target_={target}"


def _check_betas(optimizer: Component) -> None:
    betas: Any = getattr(optimizer, "betas", None)
    if betas is not None and (len(betas) != 2 or not all(0 <= beta < 1 for beta in betas)):
        raise RequestError(f"optimizer.betas={betas}: expected two numbers from 0 to below 1")
    if target_of(optimizer) == SCHEDULE_FREE and not betas[0]:
        raise RequestError(
            f"optimizer.betas={betas}: schedule-free needs a first beta above 0, the weight of "
            "the average in the interpolation; use 0.9"
        )


def _check_groups(optimizer: Component) -> None:
    options = arguments_of(optimizer)
    for index, entry in enumerate(optimizer.groups):
        for key in ("lr", "weight_decay"):
            own = entry.get("optimizer") is None
            if own and entry.get(key) is not None and key not in options:
                raise RequestError(
                    f"optimizer.groups[{index}].{key}={entry[key]}: "
                    f"{target_of(optimizer)} has no {key}; leave it out"
                )


def _check_package(target: str) -> None:
    package = COMPONENTS.get(target, Optimizer).package
    if package is not None and find_spec(package) is None:
        raise RequestError(
            f"{_named(target)}: needs {package}, which is not installed; pip install "
            "'dit-lab[optimizers]', or use optimizer=adamw"
        )


def _check_shards(target: str, optimizer: Component, distributed: str) -> None:
    known = COMPONENTS.get(target, Optimizer)
    fused = target in WITHOUT_SHARDS_IF_FUSED and getattr(optimizer, "fused", False)
    if not known.takes_shards or target in WITHOUT_SHARDS or fused:
        how = " optimizer.fused=true" if fused else ""
        raise RequestError(
            f"{_named(target)}{how}: does not support sharded parameters "
            f"(distributed={distributed}); use distributed=ddp, or optimizer=adamw"
        )


def _check_schedule(config: RunConfig) -> None:
    schedule = load_component(target_of(config.schedule), key="schedule._target_")
    if getattr(schedule, "depends_on_end", False):
        raise RequestError(
            f"schedule={config.choices['schedule']}: optimizer=schedule_free_adamw replaces "
            "learning-rate decay by averaging; use schedule=constant, which may warm up"
        )
