"""The constants behind published numbers are unchanged and complete."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.constants import ASIDE, PAGE, PUBLISHED, Constant, in_the_code, written

KNOWN = [
    *(one.place for one in PUBLISHED),
    *(place for places in ASIDE.values() for place in places),
]


@pytest.mark.parametrize("constant", PUBLISHED, ids=lambda one: one.place)
def test_a_constant_is_what_it_was(constant: Constant) -> None:
    """Another value gives other numbers by the same name: they have to be recorded anew."""
    assert constant.now == constant.value
    assert type(constant.now) is type(constant.value)


def test_every_constant_is_known() -> None:
    """A new one enters PUBLISHED, with what it decides, or ASIDE, with why it decides nothing."""
    assert set(in_the_code()) - set(KNOWN) == set()


def test_none_is_named_twice_or_gone() -> None:
    assert [place for place, count in Counter(KNOWN).items() if count > 1] == []
    assert set(KNOWN) - set(in_the_code()) == set()


def test_the_page_has_them_as_they_are() -> None:
    """python -m tests.constants writes its table anew."""
    assert written(PAGE.read_text()) == PAGE.read_text()
