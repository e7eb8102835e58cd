"""Values of settings, which are recorded as text."""

from __future__ import annotations

import re
from contextlib import suppress

WORDS = {"true": True, "false": False, "null": None, "none": None}


def value_of(text: str) -> int | float | bool | str | None:
    """What a text stands for: a number, true, false, null, or else the text without spaces."""
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    if re.fullmatch(r"[+-]?[0-9]{1,18}", text):
        return int(text)
    if re.fullmatch(r"[+-]?[0-9.]+(e[+-]?[0-9]+)?", text, re.IGNORECASE):
        with suppress(ValueError):  # 1.2.3 is text
            return float(text)
    return text.replace(" ", "")


def is_same(one: str, other: str) -> bool:
    """Whether two texts are one value: 1e-3 and 0.001, true and True."""
    return key_of(one) == key_of(other)


def key_of(text: str) -> tuple[str, object]:
    """Equal for texts that are one value: a number is no truth value."""
    value = value_of(text)
    return ("number" if type(value) in (int, float) else type(value).__name__), value


def split(text: str) -> list[str]:
    """The parts between commas that are in no brackets: `a=1,b=[2,3]` has two."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth <= 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]
