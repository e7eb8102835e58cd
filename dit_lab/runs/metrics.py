"""Reading and writing of metrics.jsonl, the metrics of a run. Torch-free."""

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

LAST_BYTES = 8192  # about thirty rows of metrics.jsonl
MOST_BYTES = 2**30  # about three million rows of metrics.jsonl
LINE_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class MetricsRow:
    """One line of metrics.jsonl."""

    step: Count
    seconds: Seconds  # wall clock, since the epoch
    metrics: dict[str, float]


def read_metrics(path: Path) -> list[MetricsRow]:
    """Return all valid rows; invalid lines, such as an incomplete last one, are ignored.

    Raises:
        RequestError: the file exceeds MOST_BYTES or a line exceeds LINE_BYTES.
    """
    try:
        with open_regular(path) as file:
            if os.fstat(file.fileno()).st_size > MOST_BYTES:
                raise RequestError(f"{path}: has more than {MOST_BYTES:,} bytes; move it away")
            lines = iter(lambda: file.readline(LINE_BYTES + 1), b"")
            return list(_rows(path, lines))
    except (FileNotFoundError, NotADirectoryError):
        return []


def last_metrics(path: Path) -> dict[str, float]:
    """Return the latest value of each metric, from the last LAST_BYTES of the file."""
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
        with suppress(ValueError):  # incomplete or not a row
            yield read_as(MetricsRow, parse_json(line), where=path)


def format_row(row: MetricsRow) -> str:
    """Return a row as a line of metrics.jsonl, as `read_metrics` reads it."""
    return to_json({"step": row.step, "seconds": row.seconds, "metrics": row.metrics}) + "\n"


def add_row(path: Path, row: MetricsRow) -> None:
    """Append a row to a file, which is created if it is missing."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(format_row(row))


def write_metrics(path: Path, rows: Iterable[MetricsRow]) -> None:
    """Replace the content of metrics.jsonl."""
    write_atomically(path, "".join(format_row(row) for row in rows))


def trim_metrics(path: Path, last_step: int, *, measured: bool) -> None:
    """Remove the rows that training will write again when it resumes from `last_step`.

    These are the rows after `last_step`, and its evaluation rows unless its evaluations were
    completed (`measured`).
    """

    def stays(row: MetricsRow) -> bool:
        return row.step < last_step or (
            row.step == last_step and (measured or "train/lr" in row.metrics)
        )

    if path.exists():
        write_metrics(path, [row for row in read_metrics(path) if stays(row)])
