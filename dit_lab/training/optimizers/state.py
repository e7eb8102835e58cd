"""Saving and exact restoring of an optimizer's state.

Tensors of the state are stored in safetensors by the name of their parameter. All else is stored as
JSON: numbers of the state, and values that the optimizer keeps in its groups (such as Prodigy's
step size, or the total weight of schedule-free's average).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypedDict

import torch
from torch import Tensor
from torch.optim import Optimizer

from dit_lab.training.optimizers.combined import parts_of

GIVEN = {"params", "param_names", "lr", "initial_lr", "weight_decay"}
"""Keys of a group that the configuration and the schedule set."""

PLAIN = (bool, int, float, str, type(None))


class Stored(TypedDict):
    """A tensor in JSON."""

    dtype: Literal["float64", "float32", "bfloat16", "float16", "int64", "int32", "uint8", "bool"]
    values: Any


Value = bool | int | float | str | list[bool | int | float | str | None] | Stored | None


class Numbers(TypedDict):
    """Optimizer part of state.json; absent in older checkpoints."""

    groups: list[dict[str, Value]]
    state: dict[str, Value]  # "<parameter name>/<state name>" -> value


def optimizer_tensors(optimizer: Optimizer, names: Mapping[Tensor, str]) -> dict[str, Tensor]:
    """Return the tensors of the state by `<parameter name>/<state name>`."""
    return {
        f"{names[parameter]}/{key}": value
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
        if isinstance(value, Tensor)
    }


def optimizer_numbers(optimizer: Optimizer, names: Mapping[Tensor, str]) -> Numbers:
    """Return all other state, and the values of each group that changed since construction.

    Unchanged options are not stored, because they come from the configuration.
    """
    return {
        "groups": [
            {
                key: _as_json(value)
                for key, value in group.items()
                if key not in GIVEN and _is_kept(value) and _has_moved(value, part.defaults, key)
            }
            for part in parts_of(optimizer)
            for group in part.param_groups
        ],
        "state": {
            f"{names[parameter]}/{key}": _as_json(value)
            for parameter, state in optimizer.state.items()
            for key, value in state.items()
            if not isinstance(value, Tensor) and _is_kept(value)
        },
    }


def load_optimizer(
    optimizer: Optimizer,
    names: Mapping[Tensor, str],
    tensors: Mapping[str, Tensor],
    numbers: Numbers | None = None,
) -> bool:
    """Restore the results of `optimizer_tensors` and `optimizer_numbers`.

    Returns:
        Whether the groups are those that were saved; otherwise only the state of parameters is
        restored.
    """
    by_name: dict[str, dict[str, Any]] = {}
    state: dict[str, Value] = {} if numbers is None else numbers["state"]
    for path, value in (*tensors.items(), *((p, _from_json(v)) for p, v in state.items())):
        name, _, key = path.rpartition("/")
        by_name.setdefault(name, {})[key] = value
    for part in parts_of(optimizer):
        _load_state(part, names, by_name)
    groups = [] if numbers is None else numbers["groups"]
    if len(groups) != len(optimizer.param_groups):
        return numbers is None
    for group, held in zip(optimizer.param_groups, groups, strict=True):
        for key in held.keys() - GIVEN:
            group[key] = _like(group.get(key), _from_json(held[key]), group["params"][0])
    return True


def _load_state(
    optimizer: Optimizer, names: Mapping[Tensor, str], by_name: Mapping[str, Mapping[str, Any]]
) -> None:
    order = [weight for group in optimizer.param_groups for weight in group["params"]]
    found = {i: by_name[names[w]] for i, w in enumerate(order) if names[w] in by_name}
    state: dict[str, Any] = optimizer.state_dict()
    state["state"] = {i: dict(held) for i, held in found.items()}
    optimizer.load_state_dict(state)
    for i, held in found.items():
        loaded = optimizer.state[order[i]]
        for key, value in held.items():  # torch casts most tensors to the parameter's dtype
            if isinstance(value, Tensor) and loaded[key].dtype != value.dtype:
                loaded[key] = value.to(loaded[key].device)


def _has_moved(value: Any, defaults: Mapping[str, Any], key: str) -> bool:
    if isinstance(value, Tensor):
        return True  # may have changed in place, and the default with it
    return key not in defaults or type(defaults[key]) is not type(value) or defaults[key] != value


def _is_kept(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(isinstance(part, PLAIN) for part in value)
    return isinstance(value, (Tensor, *PLAIN))


def _as_json(value: Any) -> Value:
    if isinstance(value, Tensor):
        dtype: Any = str(value.dtype).removeprefix("torch.")
        return {"dtype": dtype, "values": value.tolist()}
    return list(value) if isinstance(value, tuple) else value


def _from_json(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return torch.tensor(value["values"], dtype=getattr(torch, value["dtype"]))


def _like(before: Any, value: Any, weight: Tensor) -> Any:
    """Convert a value to the type that the group had: a tuple, or a tensor on the same device."""
    if isinstance(value, Tensor):
        return value.to(before.device if isinstance(before, Tensor) else weight.device)
    return tuple(value) if isinstance(before, tuple) else value
