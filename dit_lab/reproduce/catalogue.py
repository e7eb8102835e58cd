"""The list of named experiments with their recorded or published results. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dit_lab.config import search_path
from dit_lab.core.text import counted
from dit_lab.report.metrics import is_lower_better, leading_metric
from dit_lab.reproduce.expected import ONE, is_measured, read_expected, read_published


@dataclass(frozen=True, slots=True)
class Entry:
    """One experiment: the header of its recipe, where its results come from, the main result."""

    name: str
    folder: Path
    header: Mapping[str, str]
    status: str
    main: str  # "" if there are no results

    @property
    def takes(self) -> str:
        return ", ".join(self.header[key] for key in ("hardware", "time") if key in self.header)


def catalogue() -> list[Entry]:
    return [entry(name, folder) for name, folder in search_path.experiments().items()]


def entry(name: str, folder: Path) -> Entry:
    status, main = _known(folder)
    return Entry(name, folder, search_path.header(folder), status, main)


def _known(folder: Path) -> tuple[str, str]:
    if is_measured(folder):
        expected = read_expected(folder)
        recorded = expected["recorded"]
        status = f"recorded {recorded['date']} by {counted(len(recorded['seeds']), 'seed')}"
        return status, _best(expected["measured"])
    if published := read_published(folder):
        metric = published[0].metric
        values = [one.value for one in published if one.metric == metric]
        return "published, not measured here", f"{metric} {min(values):g} to {max(values):g}"
    return "not recorded", ""


def _best(measured: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the best configuration by the primary metric, with the metric's value."""
    metric = leading_metric(next(iter(measured.values())))
    sign = 1 if is_lower_better(metric) else -1
    having = [label for label, found in measured.items() if metric in found]
    if not having:
        return ""
    best = min(having, key=lambda label: sign * measured[label][metric]["mean"])
    number = measured[best][metric]
    of = "" if best == ONE else f"best of {len(measured)}, {best}: "
    return f"{of}{metric} {number['mean']:.3f} ± {number['deviation']:.3f}"
