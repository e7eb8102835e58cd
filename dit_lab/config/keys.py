"""Reference of all configuration keys: type, default and meaning. Torch-free.

The texts are those of the options' declarations, in `schema.py` and in the `options.py` of each
package.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from omegaconf import MISSING

from dit_lab.config import search_path
from dit_lab.config.components import COMPONENT_GROUPS, COMPONENTS, LISTS
from dit_lab.config.compose import Composer
from dit_lab.config.objects import to_tree
from dit_lab.config.schema import ADDED, ROOTS, TrainConfig
from dit_lab.config.validate import in_words
from dit_lab.config.yaml_files import read_recipe
from dit_lab.core.options import default_of

GROUPS = {
    "model": "size of the DiT, or an architecture",
    "objective": "training objective",
    "method": "what is added to training: losses, routes for tokens, heads",
    "coupling": "which noise a training image is paired with",
    "sampler": "sampler of images; auto: the default of the objective",
    "dataset": "dataset of images or latents",
    "codec": "images to latents and back",
    "optimizer": "optimizer of the trainable parameters",
    "schedule": "schedule of the learning rate",
    "metric": "metrics of generated samples",
    "hook": "user-defined callbacks of training",
}

VERBS = ("sample", "evaluate", "encode", "check")
"""Commands with keys that training does not have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A key as shown by `describe --key` and in the reference."""

    name: str  # training.total_steps
    takes: str  # a whole number at least 1
    default: str  # "" if a value is required
    meaning: str
    of: tuple[str, ...] = ()  # members of its group, or commands, that have it; () for all


@cache
def all_keys() -> tuple[Key, ...]:
    """Return all keys in the order of the configuration.

    Keys of training come first, with the options of each component, then further keys of other
    commands.
    """
    tree = to_tree(Composer().compose([]).config)
    tree["paths"] = read_recipe(search_path.member_file("paths", "default"))
    found = list(_of_root(TrainConfig, tree))
    known = {key.name for key in found}
    for verb in VERBS:
        own = read_recipe(search_path.packaged("conf") / f"{verb}.yaml")
        found += [
            replace(key, of=(f"dit-lab {verb}",))
            for key in _of_root(ROOTS[verb], own)
            if key.name not in known
        ]
    return tuple(found)


def search(text: str) -> list[Key]:
    """Return the key of this name, or else the keys whose name or meaning contains the text."""
    exact = [key for key in all_keys() if key.name == text]
    low = text.lower()
    return exact or [
        key for key in all_keys() if low in key.name.lower() or low in key.meaning.lower()
    ]


def _of_root(root: type[Any], defaults: dict[str, Any]) -> Iterator[Key]:
    hints = typing.get_type_hints(root)
    for field in dataclasses.fields(root):
        if field.name == ADDED:
            continue
        kind, given = hints[field.name], defaults.get(field.name, MISSING)
        if field.name in (*COMPONENT_GROUPS, *LISTS):
            yield _group(field.name, defaults)
            yield from _of_group(field.name)
        elif isinstance(kind, type) and dataclasses.is_dataclass(kind):
            below = given if isinstance(given, dict) else {}
            for inner in dataclasses.fields(kind):
                value = below.get(inner.name, MISSING)
                yield _key(f"{field.name}.{inner.name}", _resolved(kind, inner), value)
        else:
            yield _key(field.name, _resolved(root, field), given)


def _key(name: str, field: Any, default: Any) -> Key:
    if field.metadata.get("filled"):
        default = None
    return Key(
        name=name,
        takes=in_words(field),
        default="" if default == MISSING else _as_text(default),
        meaning=field.metadata.get("help", ""),
    )


def _as_text(value: Any) -> str:
    """Return a value as written in an override."""
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_as_text, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_as_text(one)}" for key, one in value.items()) + "}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value}"


def _group(group: str, defaults: dict[str, Any]) -> Key:
    names = ", ".join(search_path.choices(group))
    kind = "a list of" if group in LISTS else "one of"
    takes = f"{kind} {names}" if names else "a list of your own"
    chosen = defaults.get(ADDED, {}).get(group, defaults.get(group))
    default = _as_text(list(chosen or ())) if group in LISTS else str(chosen)
    return Key(name=group, takes=takes, default=default, meaning=GROUPS[group])


def _of_group(group: str) -> Iterator[Key]:
    """Yield the options of a group's components, merging those that are declared equally."""
    members = _members(group)
    of_all: dict[Key, list[str]] = {}
    for target, schema in COMPONENTS.get(group, {}).items():
        names = members.get(target, ())
        place = f"{group}.NAME" if group in LISTS else group
        for field in dataclasses.fields(schema):
            if field.name != "_target_":
                one = _key(f"{place}.{field.name}", _resolved(schema, field), default_of(field))
                of_all.setdefault(one, []).extend(names)
    every = {name for names in members.values() for name in names}
    for key, having in of_all.items():
        yield key if set(having) == every else replace(key, of=tuple(dict.fromkeys(having)))


def _resolved(schema: type[Any], field: Any) -> Any:
    """Return a field with its type resolved."""
    hint = typing.get_type_hints(schema)[field.name]
    return types.SimpleNamespace(type=hint, metadata=field.metadata)


def _members(group: str) -> dict[str, tuple[str, ...]]:
    """Return `_target_` -> names of the package's members with it, including inherited targets."""
    found: dict[str, list[str]] = {}
    for name in search_path.choices(group):
        if target := _target(group, name):
            found.setdefault(target, []).append(name)
    return {target: tuple(names) for target, names in found.items()}


def _target(group: str, name: str) -> str:
    content = read_recipe(search_path.member_file(group, name))
    for section in (content, content.get(name)):
        if isinstance(section, dict) and "_target_" in section:
            return str(section["_target_"])
    bases = [base for base in content.get("defaults", []) if isinstance(base, str)]
    return next(
        (found for base in bases if base != "_self_" and (found := _target(group, base))), ""
    )
