"""What a configuration's options mean, written beside their values."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

from dit_lab.config.objects import to_tree
from dit_lab.config.yaml_files import to_yaml

LINE = re.compile(r"( *)(\w+):")


def with_help(config: Any) -> str:
    """A typed configuration as YAML, with a comment after each option that says something of
    itself: its meaning, and what may be chosen."""
    return "".join(
        f"{line}  # {said}\n" if (said := _of(config, path)) else f"{line}\n"
        for line, path in _paths(to_yaml(to_tree(config)))
    )


def _paths(text: str) -> Iterator[tuple[str, list[str]]]:
    """The lines of a YAML text, each with the keys that lead to it; [] for an item of a list."""
    above: list[str] = []
    for line in text.splitlines():
        if found := LINE.match(line):
            above = [*above[: len(found[1]) // 2], found[2]]
        yield line, above if found else []


def _of(config: Any, path: list[str]) -> str:
    """The comment of the option at a path; "" where there is nothing to say."""
    *parents, name = path or [""]
    owner = config
    for parent in parents:
        owner = owner.get(parent) if isinstance(owner, dict) else getattr(owner, parent, None)
    if not dataclasses.is_dataclass(owner):
        return ""
    said: Mapping[str, Any] = next(
        (f.metadata for f in dataclasses.fields(owner) if f.name == name), {}
    )
    choices = ", ".join(map(str, said.get("choices", ())))
    return "; ".join(filter(None, [said.get("help", ""), choices]))
