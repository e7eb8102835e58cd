"""The classes of the images to draw. Torch-free."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

from dit_lab.core.errors import RequestError


def check_labels(labels: Any, num_classes: int) -> list[int]:
    """Class labels of a list, tuple, tensor or array of whole numbers, of shape (N,).

    Raises RequestError for anything else, for none, and for what is no class; a model without
    classes has the label 0.
    """
    given = labels.tolist() if hasattr(labels, "tolist") else labels
    try:
        if not given or not isinstance(given, Sequence) or any(map(_is_truth, given)):
            raise TypeError
        found = [operator.index(label) for label in given]
    except (TypeError, ValueError):
        shown = " ".join(str(labels).split())[:60]
        raise RequestError(
            f"labels={shown}: expected one or more whole numbers, such as [3, 1] or an array of "
            "shape (N,); leave it out for all classes"
        ) from None
    classes = max(1, num_classes)
    wrong = [label for label in found if not 0 <= label < classes]
    if wrong:
        raise RequestError(
            f"labels={str(found)[:60]}: {wrong[0]} is no class; allowed: 0 to {classes - 1}"
        )
    return found


def _is_truth(label: Any) -> bool:
    return isinstance(label, bool) or str(getattr(label, "dtype", "")).endswith("bool")
