"""Recognition of split folders below `dataset.root` by their names. Torch-free."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path

from dit_lab.core.errors import RequestError
from dit_lab.core.text import listed

FIRST, NOW = 1, 2
"""Versions of the folder-reading rules: FIRST for old runs that recorded it, NOW for new runs."""

TRAINING = ("train", "training")
HELD_OUT = ("val", "valid", "validation", "dev", "eval", "evaluation", "test", "testing")
"""Names of split folders; held-out names in order of preference."""

_EXACT = ("train", "val")
_KNOWN_FIRST = {*_EXACT, "valid", "validation", "test", "dev", "eval"}
_SYNONYMS = ({"val", "valid", "validation"}, {"dev"}, {"eval", "evaluation"}, {"test", "testing"})
_TAIL = re.compile(r"(sets?|data|dataset|splits?|images?|imgs|folder|dir)$")


def splits_among(root: Path, folders: Collection[str], reading: int) -> tuple[str, str] | None:
    """Return the names of the training and validation folders, or None if the folders are classes.

    `train` and `val` are always the splits. The current rules (`NOW`) also recognise other
    spellings, such as `Training` and `Testing`, `TRAIN` and `test_set`. Raises RequestError if the
    names are ambiguous.
    """
    if set(folders) >= set(_EXACT):
        return _EXACT
    if reading == FIRST:
        if folders and set(folders) <= _KNOWN_FIRST:
            raise _unclear(root, folders)
        return None
    training = sorted(name for name in folders if _word(name) in TRAINING)
    held_out = sorted(name for name in folders if _word(name) in HELD_OUT)
    if not training or not held_out:
        if folders and len(training) + len(held_out) == len(folders):
            raise _unclear(root, folders)
        return None
    words = next(words for words in _SYNONYMS if any(_word(name) in words for name in held_out))
    chosen = [name for name in held_out if _word(name) in words]
    for names in (training, chosen):
        if len(names) > 1:
            raise RequestError(
                f"{root}: {listed(names)}: all of these look like the same split; rename the one "
                "to use train or val, or remove the others"
            )
    return training[0], chosen[0]


def _word(name: str) -> str:
    """Return the normalised name: `training` for `Training_Set`."""
    letters = re.sub(r"[\W_]", "", name.casefold())
    return _TAIL.sub("", letters)


def _unclear(root: Path, folders: Collection[str]) -> RequestError:
    return RequestError(
        f"{root}: {listed(sorted(folders))}: this looks like splits, not classes; name two of them "
        "train and val, or give the one to train on as dataset.root"
    )


def in_order(names: Sequence[str], reading: int) -> list[str]:
    """Return class names in order. The current rules compare numbers: `2_cats`, `10_dogs`."""
    return sorted(names) if reading == FIRST else sorted(names, key=_natural)


def _natural(name: str) -> tuple[list[str | int], str]:
    parts: list[str | int] = list(re.split("([0-9]+)", name))
    parts[1::2] = map(int, parts[1::2])
    return parts, name  # the name itself orders "01" and "1"
