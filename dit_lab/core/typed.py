"""Conversion of plain values from a file to declared types, with errors of one line.

    @dataclass(frozen=True)
    class Holder:
        host: FileName
        pid: Annotated[int, within(1, 2**31 - 1)]

    read_as(Holder, {"host": "here", "pid": 12}, where="lease")

A dataclass declares all fields of a record, and other fields are refused. A TypedDict declares the
fields that are used, and other keys are kept. `Annotated` adds checks: functions that return "" or
a description of the expected value. Torch-free.
"""

from __future__ import annotations

import dataclasses
import math
import re
import types
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import (
    Annotated,
    Any,
    Literal,
    NotRequired,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from dit_lab.core.errors import RequestError
from dit_lab.core.files import NOT_FINITE

Kind = TypeVar("Kind")

Check = Callable[[Any], str]
"""A value -> a description of the expected value, "" if the value is accepted."""

WORDS: Mapping[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    type(None): "null",
    list: "a list",
    dict: "keys and values",
}


class TypeMismatch(ValueError):  # noqa: N818 - named after the value
    """A value that does not match its declaration; the message says where and why."""


def read_as(
    kind: type[Kind],
    values: Any,
    *,
    where: object,
    what: str = "damaged",
    instead: str = "move it away to go on without it",
) -> Kind:
    """Convert the plain values of a file to `kind`.

    `kind` is a dataclass, a TypedDict, or an annotation made of these, the types of JSON, tuples,
    Literal, Annotated, unions and Any. A bool is not a number and a float not an integer. An
    integer is converted to a declared float, and so are the texts in which `to_json` writes
    non-finite numbers.

    Raises:
        RequestError: `{where}: {what} (FIELD: why); {instead}`.
    """
    try:
        found: Kind = _read(kind, values, "")
    except TypeMismatch as trouble:
        raise RequestError(f"{where}: {what} ({trouble}); {instead}") from None
    return found


# ---- checks --------------------------------------------------------------------------------------


def within(least: float, most: float = math.inf) -> Check:
    """Return a check that a number is from `least` to `most`."""
    words = f"at least {least:,}" if most == math.inf else f"from {least:,} to {most:,}"
    return lambda value: "" if least <= value <= most else words


def spelled(pattern: str, words: str) -> Check:
    """Return a check that a whole text matches a regular expression."""
    return lambda text: "" if re.fullmatch(pattern, text) else words


def not_empty(found: Sequence[Any] | Mapping[str, Any]) -> str:
    """Check that a list or mapping is not empty."""
    return "" if found else "at least one"


def file_name(text: str) -> str:
    """Check that a text is the name of a file or folder, with which no path leads elsewhere."""
    good = text.isprintable() and "/" not in text and text not in ("", ".", "..")
    return "" if good and len(text.encode(errors="replace")) <= 255 else "a name, not a path"


def path_below(text: str) -> str:
    """Check that a text is a relative path that stays below its folder."""
    good = not any(map(file_name, text.split("/")))
    return "" if good else "a relative path without .."


FileName = Annotated[str, file_name]
PathBelow = Annotated[str, path_below]
Hash = Annotated[str, spelled("[0-9a-f]{1,128}", "hexadecimal digits")]
Count = Annotated[int, within(0)]
Duration = Annotated[float, within(0)]
Seconds = Annotated[float, within(0, 253_402_300_799)]
"""Since the epoch, up to the year 9999, the last that can be displayed."""


# ---- conversion ----------------------------------------------------------------------------------


def _read(kind: Any, value: Any, at: str) -> Any:
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin is Annotated:
        found = _read(inner[0], value, at)
        for check in inner[1:]:
            if expected := check(found):
                raise _unfit(at, expected, value)
        return found
    if origin is NotRequired:
        return _read(inner[0], value, at)
    if origin is Literal:
        if not any(type(one) is type(value) and one == value for one in inner):
            raise _unfit(at, f"one of {', '.join(map(str, inner))}", value)
        return value
    if origin in (Union, types.UnionType):
        return _read_one_of(inner, value, at)
    if dataclasses.is_dataclass(kind):
        return _read_record(kind, value, at)
    if is_typeddict(kind):
        return _read_keys(kind, value, at)
    if kind in (dict, Mapping) or origin in (dict, Mapping):
        _of_type(dict, value, at)
        of_keys, of_values = inner or (Any, Any)
        return {
            _read(of_keys, key, at): _read(of_values, one, _below(at, key))
            for key, one in value.items()
        }
    if kind in (list, tuple, Sequence) or origin in (list, tuple, Sequence):
        return _read_list(origin or kind, inner, value, at)
    return _read_scalar(kind, value, at)


def _read_scalar(kind: Any, value: Any, at: str) -> Any:
    if kind is None:
        kind = type(None)
    if kind not in WORDS:
        raise TypeError(f"{kind}: no annotation that a record can have")
    if kind is float and type(value) is int and abs(value) < 2**1000:
        return float(value)
    if kind is float and type(value) is str and value in NOT_FINITE.values():
        return float(value)
    _of_type(kind, value, at)
    if kind is int and value.bit_length() > 63:
        raise _unfit(at, "a whole number of at most 63 bits", value)
    return value


def _read_one_of(kinds: Sequence[Any], value: Any, at: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    wanted = [kind for kind in kinds if kind is not type(None)]
    wanted.sort(key=lambda kind: kind is not type(value))  # an integer stays an integer
    troubles = []
    for kind in wanted:
        try:
            return _read(kind, value, at)
        except TypeMismatch as trouble:
            troubles.append(trouble)
    if len(wanted) == 1:
        raise troubles[0]
    expected = (WORDS.get(get_origin(kind) or kind, "a record") for kind in kinds)
    raise _unfit(at, " or ".join(expected), value)


def _read_list(origin: Any, inner: tuple[Any, ...], value: Any, at: str) -> Any:
    _of_type(list, list(value) if type(value) is tuple else value, at)
    of_each = inner or (Any,)
    if origin is tuple and inner and inner[-1] is not Ellipsis:
        if len(value) != len(inner):
            raise _unfit(at, f"a list of {len(inner)}", value)
        pairs = list(zip(inner, value, strict=True))
    else:
        pairs = [(of_each[0], one) for one in value]
    found = [_read(kind, one, _below(at, number)) for number, (kind, one) in enumerate(pairs)]
    return tuple(found) if origin is tuple else found


def _read_record(kind: Any, value: Any, at: str) -> Any:
    _of_type(dict, value, at)
    fields = [field for field in dataclasses.fields(kind) if field.init]
    needed = [
        field.name
        for field in fields
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    _refuse_lacking(needed, value, at)
    if unknown := sorted(value.keys() - {field.name for field in fields}):
        raise TypeMismatch(f"{_place(at)}has an unknown key {_shown(unknown[0])}")
    hints = _hints(kind)
    return kind(**{key: _read(hints[key], one, _below(at, key)) for key, one in value.items()})


def _read_keys(kind: Any, value: Any, at: str) -> Any:
    _of_type(dict, value, at)
    hints = _hints(kind)
    needed = [key for key, hint in hints.items() if get_origin(hint) is not NotRequired]
    _refuse_lacking(needed, value, at)
    return {
        key: _read(hints[key], one, _below(at, key)) if key in hints else one
        for key, one in value.items()
    }


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _refuse_lacking(needed: Sequence[str], value: Mapping[str, Any], at: str) -> None:
    if lacking := [key for key in needed if key not in value]:
        raise TypeMismatch(f"{_place(at)}lacks {', '.join(lacking)}")


def _of_type(kind: type, value: Any, at: str) -> None:
    if type(value) is not kind:
        raise _unfit(at, WORDS[kind], value)


# ---- messages ------------------------------------------------------------------------------------


def _unfit(at: str, expected: str, value: Any) -> TypeMismatch:
    return TypeMismatch(f"{_place(at)}expected {expected}, found {_shown(value)}")


def _place(at: str) -> str:
    return f"{at}: " if at else ""


def _below(at: str, key: Any) -> str:
    """Return the dotted path of a key, such as jobs.3.status; keys are escaped."""
    name = key if isinstance(key, int) or re.fullmatch(r"[\w./-]{1,80}", key) else _shown(key)
    return f"{at}.{name}" if at else str(name)


def _shown(value: Any) -> str:
    """Return a value for a message: short, and without terminal control characters."""
    if isinstance(value, str):
        return ascii(value if len(value) <= 60 else f"{value[:57]}...")
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, int) and value.bit_length() > 200:
        return "a larger one"
    if isinstance(value, int | float):
        return f"{value}"
    return WORDS.get(type(value), "something else")
