"""Classes to sample, by number and by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dit_lab.core.errors import RequestError
from dit_lab.sampling.labels import check_labels

NAMES = ("1. Berge", "2_Hunde", "10 Blumen", "crane", "Crane", "7")


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (["10 Blumen", "1. Berge"], [2, 0]),
        (["2_hunde"], [1]),  # letters may be large or small
        (["crane", "Crane"], [3, 4]),  # unless that tells two apart
        ([2, "2_Hunde", np.int64(0)], [2, 1, 0]),
        (["7"], [5]),  # a name of digits is a name in quotes,
        ([5], [5]),  # and a number counts from 0
        (np.array(["crane"]), [3]),
    ],
)
def test_names_and_numbers(asked: Any, found: list[int]) -> None:
    assert check_labels(asked, len(NAMES), NAMES) == found


@pytest.mark.parametrize(
    ("asked", "names", "says"),
    [
        (
            ["Vögel"],
            NAMES,
            r"labels=\[Vögel\]: no class of that name; the classes are 1. Berge, 2_H",
        ),
        (["3"], NAMES, r"labels=\[3\]: no class of that name"),
        (["CRANE"], NAMES, r"labels=\[CRANE\]: is the name of the classes 3, 4; give one of these"),
        (["a"], ("a", "b", "a"), "is the name of the classes 0, 2"),
        (["a"], (), "no class of that name; there are no names"),
        ([[1]], NAMES, r"labels=\[\[1\]\]: expected one or more whole numbers or names of classes"),
        ("Berge", NAMES, "labels=Berge: expected one or more"),
    ],
)
def test_what_is_no_class(asked: Any, names: tuple[str, ...], says: str) -> None:
    with pytest.raises(RequestError, match=says):
        check_labels(asked, len(names), names)
