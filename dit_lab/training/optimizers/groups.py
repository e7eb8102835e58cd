"""Which parameters an option means: patterns over their names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from torch import Tensor

from dit_lab.core.errors import RequestError

Weight = TypeVar("Weight", bound=Tensor)
Entry = Mapping[str, Any]

MODULATION = "adaLN_modulation"


def by_pattern(
    names: Mapping[Weight, str], entries: Sequence[Entry]
) -> list[tuple[Entry, list[Weight]]]:
    """Each entry with the weights that it decides about: those whose whole name its expression is
    the first to match. Before them {} with the others, if there are any.

    Raises RequestError for an entry that decides about none.
    """
    found: list[list[Weight]] = [[] for _ in entries]
    others: list[Weight] = []
    for weight, name in names.items():
        first = (i for i, entry in enumerate(entries) if re.fullmatch(entry["match"], name))
        index = next(first, None)
        (others if index is None else found[index]).append(weight)
    for index, (entry, weights) in enumerate(zip(entries, found, strict=True)):
        if not weights:
            raise RequestError(
                f"optimizer.groups[{index}].match={entry['match']}: matches no parameter that is "
                "left by the entries before it; an expression has to match a whole name, such as "
                f"{next(iter(names.values()))}"
            )
    decided = list(zip(entries, found, strict=True))
    return [({}, others), *decided] if others else decided


def hidden_matrices(names: Mapping[Weight, str], *, matrices: str, modulation: str) -> set[Weight]:
    """The weights that Muon steps. Raises RequestError where there is none."""
    found = {
        weight
        for weight, name in names.items()
        if weight.ndim == 2
        and re.fullmatch(matrices, name)
        and not (modulation == "adamw" and MODULATION in name.split("."))
    }
    if not found:
        raise RequestError(
            f"optimizer.matrices={matrices}: matches no parameter of two dimensions; give an "
            "expression for the whole names of the hidden matrices, as there is "
            f"{next(iter(names.values()))}"
        )
    return found
