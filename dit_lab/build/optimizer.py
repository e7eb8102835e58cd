"""Construction of the optimizer, or of several for different parameter groups."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dit_lab.build.parts import build_model, parts_of_model
from dit_lab.config.components import load_component
from dit_lab.config.schema import RunConfig
from dit_lab.config.signature import check_optimizer
from dit_lab.core.options import arguments_of, target_of
from dit_lab.core.types import Shapes
from dit_lab.training.optimizers.combined import Combined
from dit_lab.training.optimizers.groups import by_pattern, hidden_matrices
from dit_lab.training.optimizers.options import COMPONENTS, MEMBERS, Muon
from dit_lab.training.optimizers.uncompiled import without_compiler


def build_optimizer(config: RunConfig, model: nn.Module) -> Optimizer:
    """Return the optimizer of the trainable parameters, or several in one if groups name others."""
    options, own = arguments_of(config.optimizer), target_of(config.optimizer)
    names = _names(model)
    groups = by_pattern(names, entries := options.pop("groups"))
    of_own: list[dict[str, Any]] = []
    others: list[Optimizer] = []
    for entry, weights in groups:
        changes = {key: entry[key] for key in ("lr", "weight_decay") if entry.get(key) is not None}
        target = MEMBERS.get(entry.get("optimizer", ""), own)
        if target == own:
            of_own.append({"params": weights, **changes})
        else:
            defaults = arguments_of(COMPONENTS[target](_target_=target))
            del defaults["groups"]
            others.append(single_optimizer(target, weights, names, {**defaults, **changes}))
    if not of_own:
        return Combined(others)
    params = of_own if entries else list(names)
    optimizer = single_optimizer(own, params, names, options)
    return Combined([optimizer, *others]) if others else optimizer


def single_optimizer(
    target: str, params: Sequence[Any], names: Mapping[Tensor, str], options: Mapping[str, Any]
) -> Optimizer:
    """Return one optimizer over parameters or parameter groups. Raises RequestError."""
    component = load_component(target, key="optimizer._target_")
    takes_names = "parameter_names" in inspect.signature(component).parameters
    given: dict[str, Any] = {"parameter_names": names} if takes_names else {}
    optimizer: Optimizer = without_compiler(component)(params=params, **options, **given)
    if target not in COMPONENTS:
        check_optimizer(target, type(optimizer))  # the target may be a function
    return optimizer


def check_patterns(config: RunConfig, shapes: Shapes) -> None:
    """Raise RequestError for patterns in the optimizer's options that match no parameter.

    Only the names are used, of a model on the meta device. A model that cannot be built there is
    checked when it is trained.
    """
    optimizer = config.optimizer
    if not optimizer.groups and not isinstance(optimizer, Muon):
        return
    meta = torch.device("meta")
    parts = parts_of_model(config, shapes, meta)
    with contextlib.suppress(NotImplementedError, RuntimeError), meta:
        names = _names(build_model(parts))
        by_pattern(names, optimizer.groups)
        if isinstance(optimizer, Muon):
            hidden_matrices(names, matrices=optimizer.matrices, modulation=optimizer.modulation)


def _names(model: nn.Module) -> dict[Tensor, str]:
    """Return the names of the trainable parameters."""
    return {weight: name for name, weight in model.named_parameters() if weight.requires_grad}
