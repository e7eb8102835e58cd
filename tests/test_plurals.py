"""No message says `1 classes`: counts are formatted by `counted`."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import dit_lab

PACKAGE = Path(dit_lab.__file__).parent
NEVER_ONE = {
    "{tokens} tokens": "which make no square",
    "{2 * channels} channels": "an even number",
    "{at_once} images": "which a smaller number does not divide",
    "{channels} channels": "which are neither grey nor colours",
    "{image.shape[-1]} channels": "the same",
    "{len(manifest.shards)} shards": "of which some are named",
    "{count} runs": "that differ",
    "{runs} runs": "of a report",
    "{len(runs)} runs": "of a report",
    "{one.second.sample.n} seeds": "after `1 and`",
    "{now} times": "a ratio",
    "{len(found)} images": "that are measured, dozens",
    "{largest + 1} classes": "a hundred at least",
    "{_shape(image_shape)} images": "three numbers",
    "{metrics['perf/images_per_second']} images": "a rate",
    "{total} jobs": "after the case of one",
    "{len(inside)} runs": "of which one is to be named",
    "{len(every)} configurations": "more than are shown",
    "{measured} configurations": "more than are shown",
    "{law.configurations} configurations": "enough for a fit",
    "{len(seeds)} configurations": "after the case of one",
    "{len(found)} configurations": "of which one is to be named",
    "{len(found)} sweeps": "of which one is to be named",
}
"""Numbers that stand before several things as they are, and why they are not 1."""


def counted_things() -> set[str]:
    """What is counted somewhere in the package, as several."""
    found = set()
    for file in PACKAGE.rglob("*.py"):
        found |= set(re.findall(r"""counted\([^"']*["'](?:\w+ )*(\w+)["']\)""", file.read_text()))
    return {f"{thing}es" if thing.endswith("s") else f"{thing}s" for thing in found}


def numbers_before(things: set[str]) -> Iterator[tuple[str, str]]:
    """Where f-strings put a value before such a word, and the text."""
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.JoinedStr):
                continue
            for value, text in zip(node.values, node.values[1:], strict=False):
                if not isinstance(value, ast.FormattedValue) or not isinstance(text, ast.Constant):
                    continue
                word = re.match(r" (\w+)\b", str(text.value))
                shown = ast.unparse(value.value)
                if word and word[1] in things and not shown.isupper():
                    yield str(file.relative_to(PACKAGE)), f"{{{shown}}} {word[1]}"


def test_numbers_are_written_with_what_they_count() -> None:
    """A new message either counts, or is entered above."""
    things = counted_things()
    assert {"classes", "images", "jobs", "seeds", "steps"} <= things
    found = list(numbers_before(things))
    assert [one for one in found if one[1] not in NEVER_ONE] == []
    assert NEVER_ONE.keys() <= {text for _, text in found}
