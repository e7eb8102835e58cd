"""The rows of metrics.jsonl, in which a run writes down what it measures. Torch-free."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dit_lab.core.errors import RequestError
from dit_lab.core.files import open_regular, parse_json, to_json
from dit_lab.core.typed import Count, Seconds, read_as
from dit_lab.runs.folder import write_atomically

LAST_BYTES = 8192  # of metrics.jsonl: some thirty rows
MOST_BYTES = 2**30  # of metrics.jsonl: some three million rows
LINE_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class MetricsRow:
    """One line of metrics.jsonl."""

    step: Count
    seconds: Seconds  # wall clock, since the epoch
    metrics: dict[str, float]


def read_metrics(path: Path) -> list[MetricsRow]:
    """All whole rows. A torn last line, left by a kill, is ignored, and so is every other line that
    is no row. Raises RequestError for a file above MOST_BYTES or a line above LINE_BYTES."""
    try:
        with open_regular(path) as file:
            if os.fstat(file.fileno()).st_size > MOST_BYTES:
                raise RequestError(f"{path}: has more than {MOST_BYTES:,} bytes; move it away")
            lines = iter(lambda: file.readline(LINE_BYTES + 1), b"")
            return list(_rows(path, lines))
    except (FileNotFoundError, NotADirectoryError):
        return []


def last_metrics(path: Path) -> dict[str, float]:
    """Metric -> its newest value, from the end of the file alone; {} where there is none."""
    try:
        with open_regular(path) as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LAST_BYTES))
            lines = file.read(LAST_BYTES).splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    found: dict[str, float] = {}
    for row in _rows(path, lines):
        found |= row.metrics
    return found


def _rows(path: Path, lines: Iterable[bytes]) -> Iterator[MetricsRow]:
    for number, line in enumerate(lines, start=1):
        if len(line) > LINE_BYTES:
            raise RequestError(
                f"{path}: line {number} has more than {LINE_BYTES:,} bytes; move it away"
            )
        with suppress(ValueError):  # torn, or somebody else's
            yield read_as(MetricsRow, parse_json(line), where=path)


def format_row(row: MetricsRow) -> str:
    """The line of metrics.jsonl that `read_metrics` reads back."""
    return to_json({"step": row.step, "seconds": row.seconds, "metrics": row.metrics}) + "\n"


def add_row(path: Path, row: MetricsRow) -> None:
    """Append it to a file, which is made where it is missing."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(format_row(row))


def write_metrics(path: Path, rows: Iterable[MetricsRow]) -> None:
    """Replace metrics.jsonl by these rows."""
    write_atomically(path, "".join(format_row(row) for row in rows))


def trim_metrics(path: Path, last_step: int, *, measured: bool) -> None:
    """Drop the rows past a step, and those of its evaluations unless it is `measured` to the end:
    training goes on from there and will write them again."""

    def stays(row: MetricsRow) -> bool:
        return row.step < last_step or (
            row.step == last_step and (measured or "train/lr" in row.metrics)
        )

    if path.exists():
        write_metrics(path, [row for row in read_metrics(path) if stays(row)])
