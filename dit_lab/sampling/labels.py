"""Labels of the images to sample. Torch-free."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

from dit_lab.core.errors import RequestError
from dit_lab.core.text import listed

SHOWN = 10  # class names in a message


def check_labels(labels: Any, num_classes: int, class_names: Sequence[str] = ()) -> list[int]:
    """Convert requested labels to a list of class indices.

    Args:
        labels: a list, tuple, tensor or array of integers, shape (N,), or a list of class names.
        num_classes: number of classes; a model without classes has only the label 0.
        class_names: names of the classes, if there are any.

    Raises:
        RequestError: no labels, an unknown class, or anything else than labels.
    """
    given = labels.tolist() if hasattr(labels, "tolist") else labels
    try:
        if (
            not given
            or isinstance(given, str)
            or not isinstance(given, Sequence)
            or any(map(_is_truth, given))
        ):
            raise TypeError
        found = [
            _named(label, class_names) if isinstance(label, str) else operator.index(label)
            for label in given
        ]
    except (TypeError, ValueError) as error:
        if isinstance(error, RequestError):
            raise
        shown = " ".join(str(labels).split())[:60]
        raise RequestError(
            f"labels={shown}: expected one or more whole numbers or names of classes, such as "
            "[3, 1] or an array of shape (N,); leave it out for all classes"
        ) from None
    classes = max(1, num_classes)
    wrong = [label for label in found if not 0 <= label < classes]
    if wrong:
        raise RequestError(
            f"labels={str(found)[:60]}: {wrong[0]} is no class; allowed: 0 to {classes - 1}"
        )
    return found


def _named(name: str, class_names: Sequence[str]) -> int:
    """Return the class of a name, ignoring case if that is unambiguous. Raises RequestError."""
    places = [at for at, known in enumerate(class_names) if known == name]
    if not places:
        same = name.casefold()
        places = [at for at, known in enumerate(class_names) if known.casefold() == same]
    if len(places) == 1:
        return places[0]
    if places:
        raise RequestError(
            f"labels=[{name}]: is the name of the classes {', '.join(map(str, places))}; give one "
            "of these numbers"
        )
    known = f"the classes are {listed(class_names, SHOWN)}" if class_names else "there are no names"
    raise RequestError(f"labels=[{name}]: no class of that name; {known}")


def _is_truth(label: Any) -> bool:
    return isinstance(label, bool) or str(getattr(label, "dtype", "")).endswith("bool")
