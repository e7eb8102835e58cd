"""Selection of parameters by patterns over their names."""

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
    """Assign each parameter to the first entry whose `match` fits its whole name.

    Returns:
        Each entry with its parameters; the parameters without an entry come first, as {}.

    Raises:
        RequestError: an entry has no parameters.
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
    """Return the parameters that Muon optimises; raise RequestError if there are none."""
    found = {
        weight
        for weight, name in names.items()
        if weight.ndim == 2
        and re.fullmatch(matrices, name)
        and not (modulation == "adamw" and MODULATION in name.split("."))
    }
    if not found:
        raise RequestError(
            f"optimizer.matrices={matrices}: matches no matrix; give an expression for the "
            f"whole names of the hidden matrices (one parameter is {next(iter(names.values()))})"
        )
    return found
