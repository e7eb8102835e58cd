"""The metrics file of a run: every number is written to it first, and then sent to trackers."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import SupportsFloat

from dit_lab.core.types import Hook
from dit_lab.runs.metrics import MetricsRow, format_row

_log = logging.getLogger(__name__)


def finite_metrics(metrics: Mapping[str, SupportsFloat]) -> dict[str, float]:
    """Return numbers and 0-d tensors as floats; a NaN or infinity becomes `nonfinite/NAME: 1`.

    JSON cannot express these values, and MLflow would store an infinite loss as 1.8e308 and plot
    it.
    """
    finite = {}
    for name, value in metrics.items():
        number = float(value)
        if math.isfinite(number):
            finite[name] = number
        else:
            finite[f"nonfinite/{name}"] = 1.0
    return finite


class MetricsFile(Hook):
    """Appends one JSON line per `on_metrics`, and hands it to the operating system at once.

    Opening the file removes an incomplete last line, as a kill leaves it: call `runs.trim_metrics`
    before, not after. A write that fails (disk full, file server away) does not stop training: the
    lines wait in memory, and the next call writes them at the same place.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        self._end = path.read_bytes().rfind(b"\n") + 1  # after the last complete line
        os.ftruncate(self._file, self._end)
        self._waiting = b""
        self._failed = False

    def on_metrics(self, step: int, metrics: Mapping[str, SupportsFloat]) -> None:
        row = MetricsRow(step=step, seconds=time.time(), metrics=finite_metrics(metrics))
        self._waiting += format_row(row).encode()
        self._write()

    def _write(self) -> None:
        try:
            written = os.pwrite(self._file, self._waiting, self._end)
            reason = f"{written} of {len(self._waiting)} bytes went in"
        except OSError as error:
            written, reason = 0, str(error)
        if written == len(self._waiting):
            self._end += written
            self._waiting = b""
            self._failed = False
        elif not self._failed:
            self._failed = True
            _log.warning("%s: cannot write metrics (%s); they wait in memory", self._path, reason)

    def on_end(self, *, status: str, step: int, error: str | None) -> None:
        if self._waiting:
            self._write()
        if self._waiting:
            lost = self._waiting.count(b"\n")
            _log.warning("%s: %d rows of metrics could not be written", self._path, lost)
        os.close(self._file)
