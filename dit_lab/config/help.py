"""YAML of a configuration with the meaning of its options as comments."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

from dit_lab.config.objects import to_tree
from dit_lab.config.yaml_files import to_yaml

LINE = re.compile(r"( *)(\w+):")


def with_help(config: Any) -> str:
    """Return a typed configuration as YAML, with help and choices of options as comments."""
    return "".join(
        f"{line}  # {said}\n" if (said := _of(config, path)) else f"{line}\n"
        for line, path in _paths(to_yaml(to_tree(config)))
    )


def _paths(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the lines of a YAML text, each with the keys that lead to it; [] for items of lists."""
    above: list[str] = []
    for line in text.splitlines():
        if found := LINE.match(line):
            above = [*above[: len(found[1]) // 2], found[2]]
        yield line, above if found else []


def _of(config: Any, path: list[str]) -> str:
    """Return the comment for the option at a path, or ""."""
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
