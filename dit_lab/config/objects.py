"""Conversion between plain values, as in files, and typed configurations, as in code."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar, cast

from dit_lab.config.components import COMPONENT_GROUPS, LISTS
from dit_lab.config.validate import component_options
from dit_lab.core.options import Component

Config = TypeVar("Config")


def to_config(kind: type[Config], tree: Mapping[str, Any]) -> Config:
    """Create a typed configuration from values that `checked_types` has checked."""
    values = dict(tree)
    for name, section in sections(cast(Any, kind)).items():
        values[name] = section(**tree[name])
    for group in COMPONENT_GROUPS:
        if group in tree:
            values[group] = to_component(group, tree[group])
    for group in LISTS:
        if group in tree:
            values[group] = {
                name: to_component(f"{group}.{name}", options)
                for name, options in tree[group].items()
            }
    return kind(**values)


def to_component(path: str, options: Mapping[str, Any]) -> Component:
    """Create the options object of a component; `path` is its dotted key."""
    return component_options(path, options)(**options)


def to_tree(config: Any) -> dict[str, Any]:
    """Return a typed configuration as nested plain values."""
    return dataclasses.asdict(config)


@cache
def sections(kind: Any) -> dict[str, Any]:
    """Return the fields of a configuration that have options themselves and are not components."""
    hints = typing.get_type_hints(kind)
    return {
        name: hint
        for name, hint in hints.items()
        if dataclasses.is_dataclass(hint) and hint is not Component
    }
