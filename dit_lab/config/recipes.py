"""Recipes: the values that they set for components, and which of these apply to other members.

A recipe is written for its own members of groups. If a command chooses others, an option of the
recipe applies only if the chosen member has it with the same meaning; otherwise it is dropped with
a note. Overrides are never dropped.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from dit_lab.config.components import COMPONENT_GROUPS, COMPONENTS, LISTS
from dit_lab.config.overrides import no_such_choice
from dit_lab.config.validate import INTERPOLATION, component_options, to_plain, why_refused
from dit_lab.config.yaml_files import load_recipe
from dit_lab.core.errors import RequestError
from dit_lab.core.options import Component

OF_RECIPE = "of_recipe"
"""Key of the composed configuration with the values of recipes for components: group -> options."""

PER_MEMBER = "options"
"""Key with options for single members, from a recipe or overrides: group -> member -> options."""

ARMS = "arms"
"""Key of a recipe with its arms, which are not part of a configuration."""


def recipe_nodes(name: str, known: Mapping[str, Path]) -> dict[str, Any]:
    """Return an experiment and its bases as nodes for Hydra: `experiment/NAME` -> values.

    Raises RequestError.
    """
    nodes = {}
    for base, recipe in recipes_of(name, known):
        node = to_plain(recipe)
        of_components = {key: node.pop(key) for key in (*COMPONENT_GROUPS, *LISTS) if key in node}
        node.pop(ARMS, None)
        nodes[f"experiment/{base}"] = {**node, OF_RECIPE: of_components}
    return nodes


def recipes_of(
    name: str, known: Mapping[str, Path], built_on: tuple[str, ...] = ()
) -> Iterator[tuple[str, DictConfig]]:
    """Yield an experiment and the experiments that it extends, with their recipes, outermost first.

    `built_on` are the experiments that extend it. Raises RequestError.
    """
    if name not in known:
        raise RequestError(no_such_choice("experiment", name, sorted(known)))
    file = known[name] / "recipe.yaml"
    if name in built_on:
        raise RequestError(
            f"{file}: circular defaults; a user-defined recipe that extends one of the lab needs "
            "another name"
        )
    recipe = load_recipe(file)
    yield name, recipe
    for entry in recipe.get("defaults", []):
        if isinstance(entry, str) and (base := entry.removeprefix("/experiment/")) in known:
            yield from recipes_of(base, known, (*built_on, name))


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A chosen member of a group of components."""

    group: str
    name: str
    target: Any  # its `_target_`, or None if unknown

    @property
    def schema(self) -> type[Component] | None:
        """Its options class, or None if unknown, which is refused later."""
        try:
            return component_options(self.group, {"_target_": self.target})
        except RequestError:
            return None


def has_option(schema: type[Component] | None, key: str) -> bool:
    """Return whether a class has an option; True for an unknown class. `key` may be dotted."""
    name = key.partition(".")[0]
    return schema is None or any(field.name == name for field in dataclasses.fields(schema))


def why_not(
    name: str, value: Any, now: Member, before: Member | None, *, own: Collection[str] = ()
) -> str:
    """Return why an option of a recipe does not apply to the chosen member, or "" if it does.

    Also returns "" if no class has the option, so that it is refused later.

    Args:
        now: The chosen member.
        before: The recipe's own member; None if it leaves the choice to the command.
        own: Options that are set by the files of members that the command chose instead.
    """
    schema, made_for = now.schema, before.schema if before else None
    if not has_option(schema, name):
        known = [*COMPONENTS.get(now.group, {}).values(), *([made_for] if made_for else [])]
        return f"{now.name} has none" if any(has_option(of, name) for of in known) else ""
    if name in own:
        return f"{now.name} has its own"
    if schema is None or before is None or before == now:
        return ""
    if now.target != before.target and not _transfers(name, schema, made_for):
        return f"{now.name} keeps its own"
    expected = "" if INTERPOLATION in str(value) else why_refused(schema, name, value)
    return f"{now.name} takes {expected}" if expected else ""


def _transfers(name: str, *schemas: type[Component] | None) -> bool:
    """Return whether an option has the same meaning in all these classes, as they declare."""
    fields = [f for of in schemas if of for f in dataclasses.fields(of) if f.name == name]
    return all(field.metadata.get("transfers", True) for field in fields)
