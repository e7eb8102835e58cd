"""Conversion of settings, which are recorded as text, to values."""

from __future__ import annotations

import re
from contextlib import suppress

WORDS = {"true": True, "false": False, "null": None, "none": None}


def value_of(text: str) -> int | float | bool | str | None:
    """Return the value of a text: a number, True, False, None, or the text without spaces."""
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    if re.fullmatch(r"[+-]?[0-9]{1,18}", text):
        return int(text)
    if re.fullmatch(r"[+-]?[0-9.]+(e[+-]?[0-9]+)?", text, re.IGNORECASE):
        with suppress(ValueError):  # 1.2.3 is text
            return float(text)
    return text.replace(" ", "")


def is_same(one: str, other: str) -> bool:
    """Return whether two texts denote the same value: 1e-3 and 0.001, true and True."""
    return key_of(one) == key_of(other)


def key_of(text: str) -> tuple[str, object]:
    """Return a key that is equal for texts of the same value; 1 and true have different keys."""
    value = value_of(text)
    return ("number" if type(value) in (int, float) else type(value).__name__), value


def split(text: str) -> list[str]:
    """Split a text at its commas outside brackets: `a=1,b=[2,3]` has two parts."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth <= 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]
