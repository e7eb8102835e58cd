"""Validation of types and ranges: known keys, values of their type, and errors of one line."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from copy import copy
from functools import cache
from typing import Any, Optional, cast

from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from dit_lab.config.components import (
    COMPONENT_GROUPS,
    LISTS,
    load_component,
    options_of,
    refuse_unregistered,
)
from dit_lab.config.contracts import check_contract
from dit_lab.config.schema import ADDED, ROOTS
from dit_lab.config.signature import check_optimizer, component_schema
from dit_lab.config.spelling import holds_lists, unknown_key
from dit_lab.core import trust
from dit_lab.core.errors import RequestError
from dit_lab.core.options import WORDS, Component, default_of
from dit_lab.runs.folder import flatten

INTERPOLATION = "${"
"""Start of an OmegaConf interpolation."""

LIMIT = 2**63
"""Bound on all numbers, which must fit into torch's integers."""


def checked_types(root: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return `config` converted to the types of the schema `ROOTS[root]`.

    Components have the types of the class that they name. Numbers in strings are converted, as in
    OmegaConf.

    Raises:
        RequestError: A key is unknown, or a value has the wrong type or range.
    """
    checked = _typed(_as_typed_in(ROOTS[root]), config, "")
    refuse_unregistered(
        (f"{path}._target_", parent[name]["_target_"])
        for parent, name, path in _components(checked)
        if isinstance(parent[name], Mapping) and "_target_" in parent[name]
    )
    for parent, name, path in _components(checked):
        others = [key for key, _ in flatten(checked) if not key.startswith(f"{path}.")]
        parent[name] = checked_component(path, parent[name], others)
    return checked


def without_patches(tree: dict[str, Any], choices: dict[str, str]) -> dict[str, str]:
    """Remove the patch size if the model is user-defined and has none; return the choices."""
    model = tree.get("model")
    if not isinstance(model, Mapping) or not trust.is_trusted(str(model.get("_target_"))):
        return choices
    known = {field.name for field in dataclasses.fields(component_options("model", model))}
    if "patch_size" in known:
        return choices
    tree["model"] = {key: value for key, value in model.items() if key != "patch_size"}
    return {group: name for group, name in choices.items() if group != "patch"}


def checked_component(path: str, options: Any, others: Iterable[str] = ()) -> dict[str, Any]:
    """Return the checked and typed options of the component at a dotted key. Raises RequestError.

    `others` are keys elsewhere, as suggestions for a misspelt one.
    """
    schema = component_options(path, options)
    typed = _typed(schema, options, f"{path}.", others)
    _check_together(path, schema(**typed))
    return typed


@cache
def _as_typed_in(kind: Any) -> type[Any]:
    """Return a configuration class in the form that OmegaConf checks.

    Components have any type, fields that are filled in later may be null, and `choices` is not a
    key.
    """
    hints = typing.get_type_hints(kind)

    def loose(field: dataclasses.Field[Any]) -> Any:
        hint = hints[field.name]
        if hint is Component:
            return Any
        if hint == dict[str, Component]:
            return dict[str, Any]
        if dataclasses.is_dataclass(hint):
            return _as_typed_in(cast(Any, hint))
        return Optional[hint] if field.metadata.get("filled") else hint  # noqa: UP045

    fields = [field for field in dataclasses.fields(kind) if field.name != ADDED]
    return dataclasses.make_dataclass(
        kind.__name__, [(field.name, loose(field), copy(field)) for field in fields]
    )


def _components(config: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str, str]]:
    """Yield every component: the mapping that contains it, its name there, and its dotted key."""
    for group in COMPONENT_GROUPS:
        if group in config:
            yield config, group, group
    for group in LISTS:
        for name in config.get(group, {}):
            yield config[group], name, f"{group}.{name}"


def _check_together(path: str, component: Component) -> None:
    try:
        component.check_together()
    except RequestError as refusal:
        raise RequestError(f"{path}.{refusal}") from None


def refuse_interpolations(tree: Mapping[str, Any]) -> None:
    """Raise RequestError for interpolations in values or keys, which are not resolved in files."""
    for key, value in flatten(tree):
        for text in (key, *_texts(value)):
            if INTERPOLATION in text:
                raise RequestError(f"{key}={text}: not a plain value; write the value itself")


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _texts(part)
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield str(key)
            yield from _texts(part)


def to_plain(node: Any, **options: Any) -> dict[str, Any]:
    """Return an OmegaConf mapping as plain dictionaries, lists and values."""
    return cast(dict[str, Any], OmegaConf.to_container(node, **options))


def component_options(path: str, options: Any) -> type[Component]:
    """Return the options class of the component at a dotted key, by its `_target_`."""
    if not isinstance(options, Mapping) or "_target_" not in options:
        raise RequestError(no_target(path))
    target, group = options["_target_"], path.partition(".")[0]
    if known := options_of(group, target):
        return known
    component = load_component(target, key=f"{path}._target_")
    check_contract(path, target, component)
    if group == "optimizer" and isinstance(component, type):
        check_optimizer(target, component)
    return component_schema(group, target, component)


def _typed(
    schema: type, values: Mapping[str, Any], prefix: str, others: Iterable[str] = ()
) -> dict[str, Any]:
    """Return `values` merged into the schema, typed and checked; `others`: keys to suggest."""
    _check_lists(schema, values, prefix)
    try:
        merged = OmegaConf.merge(OmegaConf.structured(schema), values)
        plain = to_plain(merged, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise RequestError(f"{prefix}{error.full_key}: missing; give it a value") from None
    except OmegaConfBaseException as error:
        message = _explain(schema, values, error.full_key or "", prefix, others)
        raise RequestError(message) from None
    _check_limits(schema, plain, prefix)
    return plain


def why_refused(schema: type, name: str, value: Any) -> str:
    """Return a description of the values that an option accepts if it refuses this one, else ""."""
    (field,) = [field for field in dataclasses.fields(schema) if field.name == name]
    kind = typing.get_type_hints(schema)[name]
    alone = dataclasses.make_dataclass(schema.__name__, [(name, kind, copy(field))])
    try:
        _typed(alone, {name: value}, "")
    except RequestError as refusal:
        return str(refusal).partition(": ")[2].removeprefix("expected ")
    return ""


def _explain(
    schema: type, values: Mapping[str, Any], full_key: str, prefix: str, others: Iterable[str]
) -> str:
    """Return the message for the key at which OmegaConf failed."""
    given: Any = values
    for part in full_key.replace("]", "").replace("[", ".").split("."):
        given = given[int(part)] if isinstance(given, list) else given[part]
    field = _field(schema, full_key.split("[")[0])
    owner = _field(schema, full_key.rpartition(".")[0])
    if field is None and owner is not None and typing.get_origin(owner.type) is dict:
        field = types.SimpleNamespace(type=typing.get_args(owner.type)[1], metadata={})
    if field is None:
        below = f".{next(iter(given))}" if isinstance(given, Mapping) and given else ""
        parent = full_key.rpartition(".")[0]
        siblings = [f.name for f in dataclasses.fields(owner.type if owner else schema)]
        start = f"{prefix}{parent}." if parent else prefix
        return unknown_key(
            prefix + full_key + below, [*(start + name for name in siblings), *others]
        )
    shown = "null" if given is None else given
    brackets = ""
    if holds_lists(field.type) and type(given) in (int, float):
        key = f"{prefix}{full_key}"
        brackets = f"; write {key}=[{given}], and in a sweep {key}=[{given}],[...]"
    return f"{prefix}{full_key}={shown}: expected {in_words(field)}{brackets}"


def _field(schema: type, path: str) -> Any:
    """Return the dataclass field at a dotted path with its type resolved, or None."""
    found: Any = None
    for part in filter(None, path.split(".")):
        hints = typing.get_type_hints(schema) if dataclasses.is_dataclass(schema) else {}
        if part not in hints:
            return None
        (field,) = [f for f in dataclasses.fields(schema) if f.name == part]
        found = types.SimpleNamespace(type=hints[part], metadata=field.metadata)
        schema = hints[part]
    return found


def _check_lists(schema: type, values: Mapping[str, Any], prefix: str) -> None:
    """Raise RequestError for nested lists, and for mappings instead of lists or vice versa.

    OmegaConf accepts some of these, and fails without a clear message for others.
    """
    hints = typing.get_type_hints(schema)
    for field in dataclasses.fields(schema):
        value, kind = values.get(field.name), hints[field.name]
        if dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
            _check_lists(cast(Any, kind), value, f"{prefix}{field.name}.")
        kinds = _kinds(kind)
        origins = {typing.get_origin(each) or each for each in kinds}
        members = {a for each in kinds for of in typing.get_args(each) for a in _kinds(of)}
        named = isinstance(value, Mapping) and origins <= {list, tuple, types.NoneType}
        nested = isinstance(value, list) and members and members <= {bool, int, float, str}
        listed = isinstance(value, list) and origins <= {dict, types.NoneType}
        deep = nested and any(isinstance(member, list | Mapping) for member in value or ())
        if kind == dict[str, str] and isinstance(value, Mapping):
            for name, member in value.items():
                if isinstance(member, list | Mapping):
                    raise _refusal(f"{prefix}{field.name}.{name}", member, str, {})
        if named or listed or deep:
            raise _refusal(f"{prefix}{field.name}", value, kind, field.metadata)


def _check_limits(schema: type, values: Mapping[str, Any], prefix: str) -> None:
    hints = typing.get_type_hints(schema)
    for field in dataclasses.fields(schema):
        value, kind = values[field.name], hints[field.name]
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            _check_limits(kind, value, f"{prefix}{field.name}.")
        elif value is not None and not _within(value, field.metadata):
            raise _refusal(f"{prefix}{field.name}", value, kind, field.metadata)
        elif kind is not Any and not _is_finite(value) and value != default_of(field):
            more = ", finite and below 2^63"
            raise _refusal(f"{prefix}{field.name}", value, kind, field.metadata, more)


def _refusal(
    key: str, value: Any, kind: Any, metadata: Mapping[str, Any], more: str = ""
) -> RequestError:
    expected = in_words(types.SimpleNamespace(type=kind, metadata=metadata))
    return RequestError(f"{key}={value}: expected {expected}{more}")


def _within(value: Any, limits: Mapping[str, Any]) -> bool:
    return (
        ("choices" not in limits or value in limits["choices"])
        and ("at_least" not in limits or value >= limits["at_least"])
        and ("at_most" not in limits or value <= limits["at_most"])
        and ("above" not in limits or value > limits["above"])
        and ("below" not in limits or value < limits["below"])
    )


def _is_finite(value: Any) -> bool:
    """Return whether a number, or each in a list, is finite and fits into torch's integers."""
    if isinstance(value, list | tuple):
        return all(map(_is_finite, value))
    return not isinstance(value, int | float) or (math.isfinite(value) and abs(value) < LIMIT)


_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    list: "a list such as [1, 2]",
    dict: "names and values such as {a: 1}",
}


def in_words(field: Any) -> str:
    """Return a description of the values that a field accepts."""
    kinds = _kinds(field.type)
    null = " or null" if type(None) in kinds else ""
    if "choices" in field.metadata:
        return f"one of {', '.join(map(str, field.metadata['choices']))}{null}"
    words = " or ".join(_kind_in_words(kind) for kind in kinds if kind is not type(None))
    bounds = {name: bound for name, bound in field.metadata.items() if name not in WORDS}
    limits = " and ".join(
        f"{name.replace('_', ' ')} {_number(bound)}" for name, bound in bounds.items()
    )
    return f"{words} {limits}".rstrip() + null


def _kinds(hint: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the type itself."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if union else (hint,)


def _number(bound: float) -> str:
    return f"{bound:,}" if isinstance(bound, int) else f"{bound:g}"


def _kind_in_words(kind: Any) -> str:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return f"the keys {', '.join(f.name for f in dataclasses.fields(kind))}"
    if origin in (list, tuple):
        members = [_WORDS.get(member, "values") for member in _kinds(arguments[0])]
        return f"{_WORDS[list]} ({' or '.join(members)} each)"
    return _WORDS.get(origin or kind, "a value")


def no_target(path: str) -> str:
    """Return the message for a component without `_target_`."""
    group, _, name = path.partition(".")
    if name:
        return f"{path}: not in the list; choose with {group}=[NAME,...], {name} among them"
    return f"{group}: names no _target_; choose one with {group}=NAME"
