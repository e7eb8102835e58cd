"""Parsing and lookup of overrides. Torch-free."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType, ValueType
from hydra.errors import HydraException

from dit_lab.core.errors import RequestError

MEMBER = re.compile(r"[\w+-][\w .+-]*")
"""Name of a member of a group, which is a file name and cannot lead to another folder."""

ARM = "arms."
"""`arms.NAME=OVERRIDE` defines an arm; its value is not in Hydra's grammar."""


def parse_override(text: str) -> Override:
    """Parse an override with Hydra's grammar. Raises RequestError."""
    if text.startswith(ARM) and "=" in text:
        key, _, value = text.partition("=")
        return Override(OverrideType.CHANGE, key, ValueType.ELEMENT, value, None, input_line=text)
    try:
        return OverridesParser.create().parse_override(text)
    except HydraException:
        raise RequestError(
            f"{text}: not understood; write KEY=VALUE, lists as KEY=[1,2], and quote text "
            "with special characters as KEY=\\'a b\\'"
        ) from None


def option(overrides: Sequence[str], key: str) -> Any:
    """Return the last value that overrides give to a key, or None.

    Raises:
        RequestError: The override has several values.
    """
    found = [text for text in overrides if text.partition("=")[0] == key]
    if not found:
        return None
    parsed = parse_override(found[-1])
    if parsed.is_sweep_override():
        raise RequestError(
            f"{found[-1]}: several values at once; give one, and text with a comma as "
            f"{key}=\\'a,b\\'"
        )
    return parsed.value()


def no_such_choice(group: str, member: str, allowed: Sequence[str]) -> str:
    """Return the message for an unknown member of a group."""
    close = difflib.get_close_matches(member, allowed, n=1)
    hint = f"; did you mean {group}={close[0]}?" if close else ""
    return f"{group}={member}: no such choice; allowed: {', '.join(allowed)}{hint}"
