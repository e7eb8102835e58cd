"""The folder of a reproduction, `reproductions/NAME-DATE-HEX` below the configured `paths.root`.

    reproduction.json  overrides, device, versions and code, seconds so far, whether it has finished
    runs/  sweeps/     the trained runs
    verdict.json       the comparison with the recorded results

Torch-free.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypedDict

from dit_lab.config.yaml_files import read_config
from dit_lab.core.typed import Duration, read_as
from dit_lab.report.arms import arms_of
from dit_lab.report.results import Arm
from dit_lab.report.runs import Run
from dit_lab.report.selection import runs_of_folders, runs_of_sweep
from dit_lab.reproduce.experiment import Judgement
from dit_lab.runs.finding import all_runs
from dit_lab.runs.folder import read_json, read_status, write_json
from dit_lab.runs.manifest import all_sweeps
from dit_lab.runs.metrics import MetricsRow
from dit_lab.tracking.late import log_late

ASKED = "reproduction.json"


class Asked(TypedDict):
    """reproduction.json."""

    typed: list[str]
    circumstances: dict[str, Any]
    seconds: Duration
    finished: bool


@dataclass(frozen=True, slots=True)
class ReproductionFolder:
    """Paths and records of the folder of a reproduction."""

    root: Path

    @property
    def asked(self) -> Path:
        return self.root / ASKED

    @property
    def verdict(self) -> Path:
        return self.root / "verdict.json"

    @property
    def seconds(self) -> float:
        """The duration so far, over all interruptions."""
        return self._read()["seconds"]

    def _read(self) -> Asked:
        return read_as(Asked, read_json(self.asked), where=self.asked)

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Add the duration of the context to `seconds`, also if it is interrupted."""
        before, started = self.seconds, time.monotonic()
        try:
            yield
        finally:
            self._note(seconds=before + time.monotonic() - started)

    def finish(self) -> None:
        """Mark the reproduction as finished, so that the same command starts a new one."""
        self._note(finished=True)

    def _note(self, **changes: Any) -> None:
        write_json(self.asked, {**self._read(), **changes})

    def runs(self) -> list[Run]:
        """Return the trained runs, all of which must have finished."""
        sweeps = all_sweeps(self.root)
        return runs_of_sweep(sweeps[0]) if sweeps else runs_of_folders(all_runs(self.root))

    def arms(self) -> dict[str, Arm]:
        """Return the named arms of the trained sweep."""
        return arms_of((one.root.name, one.read()) for one in all_sweeps(self.root)[:1])

    def write_verdict(self, found: Judgement) -> None:
        numbers = {label: [asdict(one) for one in of] for label, of in found.numbers.items()}
        content = {"numbers": numbers, "differences": list(found.differences)}
        write_json(self.verdict, {"reproduced": not found.wrong, **content})

    def log_verdict(self) -> str:
        """Log the verdict to the MLflow run of the sweep or run; return "" or why that failed."""
        sweeps, run = all_sweeps(self.root), all_runs(self.root)[0]
        status = read_status(run)
        run_id = sweeps[0].read().parent_run_id if sweeps else status.get("tracking_run_id")
        if run_id is None:
            return ""
        uri = read_config(run)["tracking"]["uri"]
        metrics = {"reproduced": float(read_json(self.verdict)["reproduced"] is True)}
        row = MetricsRow(status["step"], time.time(), metrics)
        return log_late(uri, run_id, row, artifact=self.verdict)


def reproduction_folder(
    places: Path, name: str, typed: Sequence[str], circumstances: Mapping[str, Any]
) -> tuple[ReproductionFolder, bool]:
    """Return the folder to reproduce `name` in, and whether it resumes an interrupted reproduction.

    A reproduction is resumed if its overrides and circumstances (other than the date) are the same.
    Otherwise a new folder is created.
    """
    same = {key: value for key, value in circumstances.items() if key != "date"}
    asked = {"typed": list(typed), "circumstances": same}
    for file in sorted(places.glob(f"reproductions/{name}-*/{ASKED}"), reverse=True):
        found = read_as(Asked, read_json(file), where=file)
        before = {"typed": found["typed"], "circumstances": found["circumstances"]}
        if not found["finished"] and before == asked:
            return ReproductionFolder(file.parent), True
    stamp = f"{time.strftime('%Y-%m-%d')}-{secrets.token_hex(3)}"
    folder = ReproductionFolder(places / "reproductions" / f"{name}-{stamp}")
    folder.root.mkdir(parents=True)
    write_json(folder.asked, {**asked, "seconds": 0.0, "finished": False})
    return folder, False
