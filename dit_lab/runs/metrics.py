"""The rows of metrics.jsonl, in which a run writes down what it measures. Torch-free."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dit_lab.runs.folder import write_atomically

LAST_BYTES = 8192  # of metrics.jsonl: some thirty rows


@dataclass(frozen=True, slots=True)
class MetricsRow:
    """One line of metrics.jsonl."""

    step: int
    seconds: float  # wall clock, since the epoch
    metrics: dict[str, float]


def read_metrics(path: Path) -> list[MetricsRow]:
    """All whole rows; a torn last line, left by a kill, is ignored."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(MetricsRow(**json.loads(line)))
        except (json.JSONDecodeError, TypeError):
            continue
    return rows


def last_metrics(path: Path) -> dict[str, float]:
    """Metric -> its newest value, from the end of the file alone; {} where there is none."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LAST_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return {}
    found: dict[str, float] = {}
    for line in lines:
        try:
            found |= json.loads(line)["metrics"]
        except (ValueError, TypeError, KeyError):  # torn, at either end
            continue
    return found


def format_row(row: MetricsRow) -> str:
    """The line of metrics.jsonl that `read_metrics` reads back."""
    return json.dumps({"step": row.step, "seconds": row.seconds, "metrics": row.metrics}) + "\n"


def write_metrics(path: Path, rows: Iterable[MetricsRow]) -> None:
    """Replace metrics.jsonl by these rows."""
    write_atomically(path, "".join(format_row(row) for row in rows))


def trim_metrics(path: Path, last_step: int) -> None:
    """Drop the rows past a step: training goes on from there and will write them again."""
    if path.exists():
        write_metrics(path, [row for row in read_metrics(path) if row.step <= last_step])
