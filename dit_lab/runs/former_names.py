"""Components that were moved: records keep the name that a component had when they were made.

A record is read with the names of today; in hashes every component goes under the first name that
it had, so that a move changes no hash.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

METRICS = (
    "TwoSample", "PrecisionRecall", "DensityCoverage", "KernelDistance", "Memorisation", "Frechet",
    "InceptionScore", "ClassAccuracy",
)  # fmt: skip

NOW: dict[str, str] = {
    f"dit_lab.evaluation.metrics.{name}": f"dit_lab.evaluation.metrics.components.{name}"
    for name in METRICS
}
"""The first name of a component that was moved -> its name today."""

FIRST = {now: first for first, now in NOW.items()}


def with_names_of_today(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a file recorded, with each `_target_` as it is named today."""
    return {key: _renamed(part, NOW) for key, part in record.items()}


def with_first_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """What is to be hashed, with each `_target_` as it was named first."""
    return {key: _renamed(part, FIRST) for key, part in values.items()}


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, Mapping):
        return {
            key: names.get(part, part)
            if key == "_target_" and isinstance(part, str)
            else _renamed(part, names)
            for key, part in value.items()
        }
    if isinstance(value, list | tuple):
        return [_renamed(part, names) for part in value]
    return value
