"""Checks of training methods against the model, the objective and the batch. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping

from dit_lab.config.checks.machine import AUTO
from dit_lab.config.compatibility import active_methods, needs_of_objective
from dit_lab.config.components import is_registered
from dit_lab.config.schema import RunConfig
from dit_lab.core.errors import RequestError
from dit_lab.core.options import Component, target_of

COMPARES_TARGETS = ("Contrastive", "InternalGuidance")
"""Methods that need `Objective.loss_of`."""


def check_methods(config: RunConfig) -> None:
    """Check the training methods. Raises RequestError."""
    methods = active_methods(config)
    for name, options in methods.items():
        _check_blocks(config, name, options)
        check_groups(config, f"method.{name}", getattr(options, "group_images", 1))
        _check_objective(config, name, options)
        if _is(options, "Repa") and hasattr(config.dataset, "images_root"):
            chosen = config.choices["dataset"]
            raise RequestError(
                f"method={name}: its teacher looks at images, and dataset={chosen} has latents "
                "alone; use a dataset of images"
            )
    _check_routes(methods)


def check_groups(config: RunConfig, path: str, group: int) -> None:
    """Raise RequestError if groups of images do not divide the micro-batch of a process."""
    training, processes = config.training, config.distributed.num_processes
    if processes == AUTO:  # checked again once the number is known
        return
    at_once = training.global_batch_size // (training.accumulation * processes)
    if at_once % group:
        fitting = [n for n in range(2, at_once + 1) if at_once % n == 0]
        raise RequestError(
            f"{path}.group_images={group}: does not divide the micro-batch of {at_once} images "
            f"per process; use {', '.join(map(str, fitting[-6:]))}"
        )


def _check_blocks(config: RunConfig, name: str, options: Component) -> None:
    depth = getattr(config.model, "depth", None)
    if depth is None:
        return
    for key, block in getattr(options, "blocks", {}).items():
        if block is not None and block > depth:
            raise RequestError(
                f"method.{name}.{key}={block}: the model has {depth} blocks; give at most as many"
            )
    if hasattr(options, "span"):
        first, last = options.span(depth)
        if first > last:
            raise RequestError(
                f"method={name}: its route would begin at block {first} and end at block {last} of "
                f"{depth}; give method.{name}.first and method.{name}.last, or a deeper model"
            )


def _check_objective(config: RunConfig, name: str, options: Component) -> None:
    objective, chosen = config.objective, config.choices["objective"]
    if _is(options, "Sra") and hasattr(objective, "num_timesteps"):
        raise RequestError(
            f"method={name}: needs an objective with times from 0 to 1, not objective={chosen}; "
            "use rectified_flow or flow_matching"
        )
    few_step = needs_of_objective(objective).second_time or hasattr(objective, "stages")
    ours = is_registered("objective", target_of(objective))
    if _is(options, *COMPARES_TARGETS) and ours and few_step:
        raise RequestError(
            f"method={name}: compares the output with the target of a flow or a diffusion, which "
            f"objective={chosen} does not have; use rectified_flow, flow_matching or ddpm"
        )


def _check_routes(methods: Mapping[str, Component]) -> None:
    routes = [name for name, options in methods.items() if hasattr(options, "span")]
    if len(routes) > 1:
        raise RequestError(
            f"method=[{','.join(routes)}]: each has a route of its own for the tokens; use one of "
            "them"
        )


def _is(options: Component, *classes: str) -> bool:
    """Return whether a method is one of these classes of the package."""
    module, _, name = target_of(options).rpartition(".")
    return module.startswith("dit_lab.methods.") and name in classes
