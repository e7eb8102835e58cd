"""Plain values are read as declared types, or refused with the file and field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import pytest

from dit_lab.core.errors import RequestError
from dit_lab.core.typed import Count, FileName, Hash, PathBelow, Seconds, read_as


@dataclass(frozen=True)
class Inner:
    count: Count
    name: str = "none"


class Open(TypedDict):
    step: int
    note: NotRequired[str]


@dataclass(frozen=True, kw_only=True)
class Outer:
    number: float
    inner: Inner
    many: list[Inner]
    by_name: Mapping[str, float]
    pair: tuple[int, str]
    some: Sequence[int] | None
    word: Literal["yes", "no"]
    anything: Any
    open: Open


WHOLE: dict[str, Any] = {
    "number": 1,
    "inner": {"count": 0},
    "many": [{"count": 1, "name": "one"}],
    "by_name": {"a": 2, "b": float("nan")},
    "pair": [1, "x"],
    "some": None,
    "word": "no",
    "anything": [{"x": None}],
    "open": {"step": 1, "more": True},
}


def test_what_is_declared_is_read() -> None:
    found = read_as(Outer, WHOLE, where="file")
    assert found.number == 1.0 and isinstance(found.number, float)
    assert found.many == [Inner(1, "one")] and found.inner == Inner(0)
    assert found.pair == (1, "x") and found.word == "no"
    assert isinstance(found.by_name["a"], float)
    assert found.anything == [{"x": None}]
    assert found.open == {"step": 1, "more": True}  # a TypedDict leaves other keys as they are


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"number": "1"}, "number: expected a number, found '1'"),
        ({"number": True}, "number: expected a number, found true"),
        ({"number": 10**400}, "number: expected a number, found a larger one"),
        ({"inner": {"count": True}}, "inner.count: expected a whole number, found true"),
        ({"inner": {"count": 1.0}}, "inner.count: expected a whole number, found 1.0"),
        ({"inner": {"count": float("nan")}}, "inner.count: expected a whole number, found nan"),
        ({"inner": {"count": 2**63}}, "inner.count: expected a whole number of at most 63 bits"),
        ({"inner": {"count": 10**5000}}, "inner.count: .*found a larger one"),
        ({"inner": {"count": -1}}, "inner.count: expected at least 0, found -1"),
        ({"inner": {}}, "inner: lacks count"),
        ({"inner": {"count": 1, "x": 1}}, "inner: has an unknown key 'x'"),
        ({"inner": []}, "inner: expected keys and values, found a list"),
        ({"inner": None}, "inner: expected keys and values, found null"),
        ({"many": {}}, "many: expected a list, found keys and values"),
        ({"many": [{"count": 1}, 5]}, "many.1: expected keys and values, found 5"),
        ({"by_name": {"a": "x"}}, "by_name.a: expected a number, found 'x'"),
        ({"by_name": {"\x1b[31m\n": "x"}}, r"by_name.'\\x1b\[31m\\n': expected"),
        ({"pair": [1]}, "pair: expected a list of 2"),
        ({"pair": ["x", 1]}, "pair.0: expected a whole number"),
        ({"some": [None]}, "some.0: expected a whole number, found null"),
        ({"word": "\x1b[2J\u202e"}, r"word: expected one of yes, no, found '\\x1b\[2J\\u202e'"),
        ({"word": "x" * 10**6}, r"word: expected one of yes, no, found 'x{57}\.\.\.'"),
        ({"open": {}}, "open: lacks step"),
        ({"open": {"step": 1, "note": 5}}, "open.note: expected text, found 5"),
    ],
)
def test_what_is_not_declared_is_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(
        RequestError, match=rf"^file: damaged \({says}.*\); move it away"
    ) as refused:
        read_as(Outer, {**WHOLE, **change}, where="file")
    message = str(refused.value)
    assert message.isprintable() and len(message) < 300


@pytest.mark.parametrize("values", [None, [], 5, "x", True])
def test_a_record_is_a_mapping(values: object) -> None:
    with pytest.raises(RequestError, match="expected keys and values"):
        read_as(Outer, values, where="file")


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (FileName, ["ema-0.9", "ä ö", "a=b", "..."],
         ["../x", "/x", "..", ".", "", "a/b", "a\nb", "a\0b", "\x1b[31m", "\u202ex", "x" * 256]),
        (PathBelow, ["runs/a/b", "a"], ["../x", "runs/../../x", "/x", "runs//x", "", "runs/"]),
        (Hash, ["0a", "f" * 64], ["", "g", "0A", "../0", "0" * 129, "0\n"]),
        (Seconds, [0, 1.5e9], [-1, float("nan"), float("inf"), 1e12]),
        (int | str, [1, "x"], [1.5, None, []]),
        (Annotated[int | None, lambda value: "" if value is None else "nothing"], [None], [1]),
    ],
)  # fmt: skip
def test_checks(kind: Any, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        assert read_as(kind, value, where="file") == value
    for value in bad:
        with pytest.raises(RequestError, match="file: damaged"):
            read_as(kind, value, where="file")


def test_an_annotation_that_no_record_has_is_the_programmers_mistake() -> None:
    with pytest.raises(TypeError):
        read_as(set, [], where="file")
