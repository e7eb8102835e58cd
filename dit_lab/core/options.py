"""How an option is declared: its type, its range, its default and one line of help. Torch-free.

Each part of the package has an `options.py` with a class for the options of each of its components,
found by the `_target_` that it belongs to; a class of the user's own says the same in the
annotations of its constructor.
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
"""What an option's metadata says besides its range."""


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
    """A field of an options class; in a user's own class, `Annotated[float, option(above=0)]`.

    filled: null stands for a value that composing fills in.
    later: it was added when runs had been recorded without it, its default does what those did,
    and at its default it is no part of what identifies a run.
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
    """What every component has: the name of its class or function."""

    _target_: str = MISSING

    if TYPE_CHECKING:  # which options there are is known to those who know the class

        def __getattr__(self, name: str) -> Any: ...

    def check_together(self) -> None:
        """Raise RequestError for options that do not go together, named without their group."""


def target_of(component: Component) -> str:
    """The dotted name of a component's class or function."""
    return component._target_


def arguments_of(component: Component) -> dict[str, Any]:
    """The options of a component, as keyword arguments of its class or function."""
    return {
        field.name: getattr(component, field.name)
        for field in dataclasses.fields(component)
        if field.name != "_target_"
    }


def changed(component: Component, **options: Any) -> Component:
    """The component with other options."""
    return dataclasses.replace(component, **options)


def defaults(schema: type[Component]) -> dict[str, Any]:
    """The options that have a default, as configurations spell them."""
    made = cast(dict[str, Any], OmegaConf.to_container(OmegaConf.structured(schema)))
    return {name: value for name, value in made.items() if value != MISSING}


def without_neutral(schema: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Options without those that were added later and are at their default."""
    later = {f.name: default_of(f) for f in dataclasses.fields(schema) if f.metadata.get("later")}
    return {
        name: value for name, value in values.items() if name not in later or value != later[name]
    }


def default_of(field: dataclasses.Field[Any]) -> Any:
    """The default of a field."""
    factory = field.default_factory
    return field.default if factory is dataclasses.MISSING else factory()


def accepted(call: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a class or function takes.

    Every dataset has `num_workers` and may declare `num_classes` and `image_size`; those that it
    does not take itself are the loader's, or were only there to be checked.
    """
    taken = inspect.signature(call).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values()):
        return dict(options)
    return {key: value for key, value in options.items() if key in taken}
