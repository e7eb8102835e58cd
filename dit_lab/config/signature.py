"""Schema of a user-defined component, from the signature of its class or function.

`Literal["a", "b"]` lists the allowed values, `Annotated[float, option(above=0)]` sets bounds, and
an argument's default applies if the configuration has no value. Torch-free, though modules of the
user may import torch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import types
import typing
from functools import cache
from typing import Annotated, Any, Literal, Optional, Union

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dit_lab.config.contracts import given_in_code
from dit_lab.core.errors import RequestError
from dit_lab.core.options import Component, parameters_of
from dit_lab.data.options import Dataset
from dit_lab.evaluation.options import Metric
from dit_lab.training.optimizers.options import Optimizer

# Types are built at run time, which requires Optional[...] and Union[...].
# ruff: noqa: UP007, UP045

PLAIN = (bool, int, float, str, list, tuple, dict, type(None), Any)
HINT = "annotate it with bool, int, float, str, Literal[...], a list or dict of these, or X | None"


BASES: dict[str, type[Component]] = {
    "dataset": Dataset,
    "metric": Metric,
    "optimizer": Optimizer,
}
"""Options with defaults that every component of a group has, and that a user's file may omit."""


@cache
def component_schema(group: str, target: str, component: Any) -> type[Component]:
    """Return a schema of the typed arguments of the class or function that `target` names.

    Raises:
        RequestError: An annotation cannot be checked.
    """
    annotations = _annotations(group, target, component)
    fields = []
    for name, parameter in parameters_of(component).items():
        open_ended = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if open_ended or name in given_in_code(group):
            continue
        try:
            kind, limits = _checkable(annotations.get(name, Any))
        except TypeError:
            raise RequestError(
                f"{group}.{name}: {target} says {inspect.formatannotation(parameter.annotation)}, "
                f"which no key can hold; {HINT}"
            ) from None
        if group == "optimizer":  # learning rates of different optimizers are not comparable
            limits = {**limits, "transfers": False}
        fields.append((name, *_field(kind, limits, parameter.default)))
    base = BASES.get(group, Component)
    schema = dataclasses.make_dataclass(target, fields, bases=(base,))
    try:
        OmegaConf.structured(schema)
    except OmegaConfBaseException as error:
        raise RequestError(f"{group}.{error.full_key}: {target} says: {_line(error)}") from None
    return schema


def check_optimizer(target: str, kind: type[Any]) -> None:
    """Raise RequestError for an optimizer that does not take exactly one `step()` per gradient."""
    step = inspect.unwrap(getattr(kind, "step", lambda optimizer: None))
    asked = [
        parameter.name
        for parameter in list(inspect.signature(step).parameters.values())[1:]
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if ("torch.optim.optimizer", "Optimizer") not in [
        (base.__module__, base.__qualname__) for base in kind.__mro__
    ]:
        problem = "is no torch.optim.Optimizer"
    elif asked:
        problem = f"its step() needs {', '.join(asked)}"
    elif hasattr(kind, "first_step") or hasattr(kind, "second_step"):
        problem = "has two steps for each batch"
    elif hasattr(kind, "train") or hasattr(kind, "eval"):
        problem = "has weights of its own for evaluation, which train() and eval() exchange"
    else:
        return
    raise RequestError(
        f"optimizer._target_={target}: {problem}; name an optimizer that takes one step() for each "
        "gradient, such as torch.optim.AdamW"
    )


def _line(error: Exception) -> str:
    return str(error).splitlines()[0]


def _annotations(group: str, target: str, component: Any) -> dict[str, Any]:
    """Return the annotations of the arguments by name."""
    call = component.__init__ if inspect.isclass(component) else component
    try:
        return typing.get_type_hints(call, include_extras=True)
    except NameError as error:
        raise RequestError(
            f"{group}._target_={target}: its annotations cannot be read ({error}); import what "
            "they name outside of TYPE_CHECKING"
        ) from None


def _field(kind: Any, limits: dict[str, Any], default: Any) -> tuple[Any, Any]:
    """Return type and dataclass field of an argument with this default."""
    if default is inspect.Parameter.empty:
        return kind, dataclasses.field(default=MISSING, metadata=limits)
    if default is None:
        return Optional[kind], dataclasses.field(default=None, metadata=limits)
    return kind, dataclasses.field(default_factory=lambda: default, metadata=limits)


def _checkable(hint: Any) -> tuple[Any, dict[str, Any]]:
    """Return a type that OmegaConf can check, and bounds and choices. Raises TypeError.

    Of a union, only the members that a configuration can contain count: `float | Tensor` is a
    float.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _bounded(*arguments)
    if origin is Literal:
        kinds = {type(choice) for choice in arguments}
        return (kinds.pop() if len(kinds) == 1 else Any), {"choices": arguments}
    if origin in (Union, types.UnionType):
        return _union(arguments)
    if origin in (list, tuple, dict):
        members = [(a, {}) if a is ... else _checkable(a) for a in arguments]
        if any(limits for _, limits in members):
            raise TypeError  # bounds are checked for whole values only, not for items
        return origin[tuple(kind for kind, _ in members)], {}
    if hint not in PLAIN:
        raise TypeError
    return hint, {}


def _bounded(hint: Any, *notes: Any) -> tuple[Any, dict[str, Any]]:
    """Return the type inside Annotated, with the metadata of `option(...)`."""
    kind, limits = _checkable(hint)
    bounds: dict[str, Any] = {}
    for note in notes:
        bounds.update(note.metadata if isinstance(note, dataclasses.Field) else {})
    if bounds and not set(typing.get_args(kind) or [kind]) <= {int, float, type(None)}:
        raise TypeError
    return kind, {**limits, **bounds}


def _union(members: tuple[Any, ...]) -> tuple[Any, dict[str, Any]]:
    found = []
    for member in members:
        with contextlib.suppress(TypeError):
            found.append(_checkable(member))
    values = [limits for kind, limits in found if kind is not type(None)]
    if not values or (len(values) > 1 and any(values)):
        raise TypeError
    return Union[tuple(kind for kind, _ in found)], values[0]
