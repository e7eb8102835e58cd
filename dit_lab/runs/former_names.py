"""Renamed components: `_target_` names of earlier versions.

Records are read with the current names. Hashes use the first name of each component, so that
renaming a component does not change them.
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
"""The first name of a renamed component -> its current name."""

FIRST = {now: first for first, now in NOW.items()}


def with_names_of_today(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recorded config with the current name of each `_target_`."""
    return {key: _renamed(part, NOW) for key, part in record.items()}


def with_first_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values to be hashed with the first name of each `_target_`."""
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
