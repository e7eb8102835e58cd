"""Generator of docs/keys.md from the options: `python -m tests.keys_page` writes it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dit_lab.config.components import COMPONENT_GROUPS, LISTS
from dit_lab.config.keys import Key, all_keys

PAGE = Path(__file__).parents[1] / "docs/keys.md"

HEAD = """# All keys

`dit-lab describe --key KEY` prints the same for one key, or of all that have a word in their name
or meaning. `dit-lab train ... --cfg job` prints a whole configuration with meanings beside values.

`NAME` stands for a chosen metric. Where the last column has names, only those members of the group
have the key, or only that command has it. A key without a default has to be given, or gets its
value from the chosen member. A test compares this page with the code; `python -m tests.keys_page`
writes it.
"""


BAR = "&#124;"


def page() -> str:
    """The whole text."""
    return HEAD + "".join(_lines())


def _lines() -> Iterator[str]:
    sections: dict[str, list[Key]] = {}
    for key in all_keys():
        sections.setdefault(_section(key), []).append(key)
    for name, keys in sections.items():
        yield f"\n## {name}\n\n| key | type | default | meaning | only for |\n"
        yield "|---|---|---|---|---|\n"
        for key in keys:
            cells = (f"`{key.name}`", key.takes, key.default, key.meaning, ", ".join(key.of))
            yield f"| {' | '.join(cell.replace('|', BAR) for cell in cells)} |\n"


def _section(key: Key) -> str:
    if key.of and key.of[0].startswith("dit-lab "):
        return key.of[0]
    group = key.name.partition(".")[0]
    return group if "." in key.name or group in (*COMPONENT_GROUPS, *LISTS) else "run"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
