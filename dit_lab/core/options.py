"""Declaration of options: type, range, default and help. Torch-free.

Each package of components has an `options.py` with one options class per component, found by its
`_target_`. A user-defined class declares its options by the annotations of its constructor.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from omegaconf import MISSING, OmegaConf

WORDS = ("help", "later", "filled", "transfers")
"""Keys of an option's metadata besides its range."""


def option(
    default: Any = MISSING,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    choices: Sequence[str] = (),
    help: str = "",
    later: bool = False,
    filled: bool = False,
    transfers: bool = True,
) -> Any:
    """Declare an option: a field of an options class.

    User-defined classes write `Annotated[float, option(above=0)]` instead.

    Args:
        filled: null stands for a value that is filled in when the configuration is composed.
        later: The option was added after runs had been recorded without it. Its default must keep
            their behaviour; at its default it is left out of hashes.
        transfers: The same value has the same meaning for other components with this option.
    """
    bounds = {"at_least": at_least, "above": above, "at_most": at_most, "below": below}
    said: dict[str, Any] = {name: bound for name, bound in bounds.items() if bound is not None}
    if choices:
        said["choices"] = tuple(choices)
    if help:
        said["help"] = help
    if later:
        said["later"] = True
    if filled:
        said["filled"] = True
    if not transfers:
        said["transfers"] = False
    if isinstance(default, list | dict):
        return dataclasses.field(default_factory=lambda: copy(default), metadata=said)
    return dataclasses.field(default=default, metadata=said)


@dataclass
class Component:
    """Options of a component, and the name of its class or function."""

    _target_: str = MISSING

    if TYPE_CHECKING:  # subclasses declare the options

        def __getattr__(self, name: str) -> Any: ...

    def check_together(self) -> None:
        """Raise RequestError for options that are incompatible, naming them without their group."""


def target_of(component: Component) -> str:
    """Return the dotted name of a component's class or function."""
    return component._target_


def arguments_of(component: Component) -> dict[str, Any]:
    """Return the options of a component as keyword arguments of its class or function."""
    return {
        field.name: getattr(component, field.name)
        for field in dataclasses.fields(component)
        if field.name != "_target_"
    }


def changed(component: Component, **options: Any) -> Component:
    """Return a copy of the component with some options replaced."""
    return dataclasses.replace(component, **options)


def defaults(schema: type[Component]) -> dict[str, Any]:
    """Return the options that have a default, as plain values."""
    made = cast(dict[str, Any], OmegaConf.to_container(OmegaConf.structured(schema)))
    return {name: value for name, value in made.items() if value != MISSING}


def without_later_defaults(schema: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options without those declared `later` that are at their default."""
    later = {f.name: default_of(f) for f in dataclasses.fields(schema) if f.metadata.get("later")}
    return {
        name: value for name, value in values.items() if name not in later or value != later[name]
    }


def default_of(field: dataclasses.Field[Any]) -> Any:
    """Return the default of a field."""
    factory = field.default_factory
    return field.default if factory is dataclasses.MISSING else factory()


def accepted(call: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that a class or function accepts as arguments.

    Every dataset has the option `num_workers` and may declare `num_classes` and `image_size`. Those
    that its class does not accept are for the data loader, or were only there to be checked.
    """
    taken = parameters_of(call)
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values()):
        return dict(options)
    return {key: value for key, value in options.items() if key in taken}


def parameters_of(component: Any) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of a class or function, by name.

    Returns none for a protocol class without a constructor, whose `__init__` comes from `typing`.
    """
    constructor = component.__init__ if inspect.isclass(component) else None
    if getattr(constructor, "__module__", "") == "typing":
        return {}
    return inspect.signature(component).parameters
