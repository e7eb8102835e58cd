"""How an option is declared: its type, its range, its default and one line of help. Torch-free.

Each part of the package has an `options.py` with a class for the options of each of its components,
found by the `_target_` that it belongs to; a class of the user's own says the same in the
annotations of its constructor.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from omegaconf import MISSING, OmegaConf

WORDS = ("help", "later")
"""What an option's metadata says besides its range."""


def option(
    default: Any = MISSING,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    help: str = "",
    later: bool = False,
) -> Any:
    """A field of an options class; in a user's own class, `Annotated[float, option(above=0)]`.

    later: it was added when runs had been recorded without it, its default does what those did,
    and at its default it is no part of what identifies a run.
    """
    bounds = {"at_least": at_least, "above": above, "at_most": at_most, "below": below}
    said: dict[str, Any] = {name: bound for name, bound in bounds.items() if bound is not None}
    if help:
        said["help"] = help
    if later:
        said["later"] = True
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=said)
    return dataclasses.field(default=default, metadata=said)


@dataclass
class Component:
    """What every component has. Where options must go together, `check` refuses those that do
    not, with a RequestError that names them without the group."""

    _target_: str = MISSING

    @staticmethod
    def check(options: Mapping[str, Any]) -> None:
        return None


def defaults(schema: type[Component]) -> dict[str, Any]:
    """The options that have a default, as configurations spell them."""
    made = OmegaConf.to_container(OmegaConf.structured(schema), enum_to_str=True)
    return {name: value for name, value in cast(dict[str, Any], made).items() if value != MISSING}


def without_neutral(schema: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Options without those that were added later and are at their default."""
    later = [field.name for field in dataclasses.fields(schema) if field.metadata.get("later")]
    neutral = defaults(schema) if later else {}
    return {
        name: value for name, value in values.items() if name not in later or value != neutral[name]
    }
