"""The picture of the packages is up to date."""

from __future__ import annotations

from tests.package_picture import PICTURE, drawn, reduced


def test_the_picture_is_drawn_from_the_imports() -> None:
    otherwise = "docs/packages.svg is out of date; python -m tests.package_picture writes it"
    assert PICTURE.read_text() == drawn(), otherwise


def test_implied_arrows_are_left_out() -> None:
    graph = {"a": {"b", "c", "d"}, "b": {"c"}, "c": set(), "d": {"c"}}
    assert reduced(graph) == [("a", "b"), ("a", "d"), ("b", "c"), ("d", "c")]
