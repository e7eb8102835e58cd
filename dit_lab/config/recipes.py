"""What a recipe sets of components, and how far it reaches the members that are chosen.

A recipe is written for its own members of groups. Where a command chooses others, an option of the
recipe applies where the chosen member has it and it means the same there; else it is dropped, and
said. What a command sets itself is never dropped.
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
"""Where the composed configuration holds what recipes set of components: group -> options."""

PER_MEMBER = "options"
"""group -> member -> options: values for one member of a group, of a recipe or typed."""

ARMS = "arms"
"""Of a recipe, its named arms, which are no part of a configuration."""


def recipe_nodes(name: str, known: Mapping[str, Path]) -> dict[str, Any]:
    """A named experiment and those that it is built on, as Hydra is told of them:
    `experiment/NAME` -> what it sets. Raises RequestError."""
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
    """A named experiment and those that it is built on, the outermost first, with their recipes;
    `built_on` are those that build on it. Raises RequestError."""
    if name not in known:
        raise RequestError(no_such_choice("experiment", name, sorted(known)))
    file = known[name] / "recipe.yaml"
    if name in built_on:
        raise RequestError(
            f"{file}: its defaults lead back to itself; a recipe of your own that builds on one of "
            "the lab needs another name"
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
    target: Any  # its `_target_`; None where it is not known

    @property
    def schema(self) -> type[Component] | None:
        """Its options class; None where there is none, which is refused later."""
        try:
            return component_options(self.group, {"_target_": self.target})
        except RequestError:
            return None


def has_option(schema: type[Component] | None, key: str) -> bool:
    """Whether a class has an option, as far as the class is known; `key` may lead into it."""
    name = key.partition(".")[0]
    return schema is None or any(field.name == name for field in dataclasses.fields(schema))


def why_not(
    name: str, value: Any, now: Member, before: Member | None, *, own: Collection[str] = ()
) -> str:
    """Why an option of a recipe does not reach the member that is chosen `now`; "" where it does,
    and where no class has it, so that it is refused.

    before: the recipe's own member, None where it leaves the choice to the command.
    own: options that the files of members set which the command has chosen in their place.
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
    """Whether the value of an option means the same for these classes, by what they say."""
    fields = [f for of in schemas if of for f in dataclasses.fields(of) if f.name == name]
    return all(field.metadata.get("transfers", True) for field in fields)
