"""What surrounds a training: its folder, lease, log and status, true however it ends."""

from __future__ import annotations

import logging
import shutil
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dit_lab.runs import (
    FAILED,
    FINISHED,
    KILLED,
    RUNNING,
    Lease,
    RunFolder,
    read_json,
    update_status,
)
from dit_lab.tracking.mlflow_run import MlflowRun
from dit_lab.types import Hook, RequestError, StopRequested

log = logging.getLogger("dit_lab")


@contextmanager
def writing_to(folder: RunFolder, *, display: Hook) -> Iterator[Lease]:
    """Make the run folder and hold its lease and log.

    A request that is refused before anything is trained leaves no folder behind.
    """
    new = [path for path in (folder.root, *folder.root.parents) if not path.exists()]
    try:
        folder.checkpoints.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"{folder.root}: cannot be created ({error.strerror})") from None
    try:
        with Lease(folder) as lease, _logging_to(folder.log, display):
            yield lease
    except RequestError:
        if new and not folder.status.exists():
            shutil.rmtree(new[-1])
        raise


class StatusFile(Hook):
    """Keeps status.json and the lease's heartbeat true."""

    def __init__(self, folder: RunFolder, lease: Lease) -> None:
        self._folder, self._lease = folder, lease
        self.step = read_json(folder.status).get("step", 0)
        self.tracker: MlflowRun | None = None

    @property
    def known(self) -> bool:
        """Whether the run exists for others: it has a status or a page in the tracker."""
        return self.tracker is not None or self._folder.status.exists()

    def _write(self, **changes: Any) -> None:
        if self.tracker is not None and self.tracker.run_id is not None:
            changes["tracking_run_id"] = self.tracker.run_id
        update_status(self._folder, step=self.step, **changes)

    def on_start(self, *, first_step: int, total_steps: int) -> None:
        self.step = first_step
        self._write(status=RUNNING, total_steps=total_steps, error=None)

    def on_step(self, step: int) -> None:
        self.step = step

    def on_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        self._write()
        self._lease.heartbeat()

    def on_end(self, *, status: str, step: int, error: str | None) -> None:
        last_line = error.strip().splitlines()[-1] if error else None
        self._write(status=status, error=last_line)


@contextmanager
def told_how_it_ends(hooks: Sequence[Hook], status: StatusFile) -> Iterator[None]:
    """Tell every hook how it ended, whatever ended it.

    A request that is refused before anybody outside was told of the run is no ending.
    """

    def end(outcome: str, error: str | None = None) -> None:
        for hook in hooks:
            hook.on_end(status=outcome, step=status.step, error=error)

    try:
        yield
    except RequestError as refusal:
        if status.known:
            log.error("refused at step %d: %s", status.step, refusal)
            end(FAILED, str(refusal))
        raise
    except (StopRequested, KeyboardInterrupt):
        end(KILLED)
        raise
    except BaseException:
        text = traceback.format_exc()
        log.error("failed at step %d\n%s", status.step, text)
        end(FAILED, text)
        raise
    end(FINISHED)


@contextmanager
def _logging_to(path: Path, display: Hook) -> Iterator[None]:
    """Everything that is logged goes to train.log; warnings also to the person at the terminal."""
    file = logging.FileHandler(path, encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    handlers = [file, _ToDisplay(display)]
    log.setLevel(logging.INFO)
    for handler in handlers:
        log.addHandler(handler)
    try:
        yield
    finally:
        for handler in handlers:
            log.removeHandler(handler)
        file.close()


class _ToDisplay(logging.Handler):
    def __init__(self, display: Hook) -> None:
        super().__init__(logging.WARNING)
        self._display = display

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno == logging.WARNING:  # errors are reported by the command itself
            self._display.on_message(record.getMessage())
