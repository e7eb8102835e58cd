"""Run folder, lease, log and status of a training, correct however it ends."""

from __future__ import annotations

import logging
import shutil
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from dit_lab.core.errors import Diverged, HookError, RequestError, StopRequested
from dit_lab.core.files import remove_leftovers
from dit_lab.core.text import one_line
from dit_lab.core.types import Hook
from dit_lab.runs.folder import (
    FAILED,
    FINISHED,
    KILLED,
    RUNNING,
    RunFolder,
    read_status,
    update_status,
)
from dit_lab.runs.lock import Lease, LeaseLost
from dit_lab.tracking.mlflow_run import MlflowRun

log = logging.getLogger("dit_lab")


@contextmanager
def writing_to(
    folder: RunFolder, *, display: Hook, stopping: Callable[[], bool]
) -> Iterator[Lease]:
    """Create the run folder, hold its lease and write its log; gives the lease.

    If a RequestError is raised before there is a status file, new folders are removed. `stopping`
    returns whether this process received a stop signal, which the lease records.
    """
    new = [path for path in (folder.root, *folder.root.parents) if not path.exists()]
    try:
        folder.checkpoints.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"{folder.root}: cannot be created ({error.strerror})") from None
    lease = Lease(folder.lease, stopping=stopping, on_wait=display.on_message)
    with lease, _logging_to(folder.log, display):
        for place in (folder.root, folder.evaluations):
            remove_leftovers(place)
        try:
            yield lease
        except RequestError:
            if new and not folder.status.exists():
                _remove(new)
            raise


def _remove(folders: Sequence[Path]) -> None:
    """Remove the first folder with its content, and its parents as far as they are empty."""
    shutil.rmtree(folders[0])
    with suppress(OSError):
        for folder in folders[1:]:
            folder.rmdir()


class StatusFile(Hook):
    """Keeps status.json up to date.

    A status that cannot be written is logged and does not end the training. A lost lease does:
    LeaseLost is raised at the next metrics.
    """

    def __init__(self, folder: RunFolder, lease: Lease) -> None:
        self._folder, self._lease = folder, lease
        self.step = read_status(folder).get("step", 0)
        self.tracker: MlflowRun | None = None

    @property
    def known(self) -> bool:
        """Whether the run has a status file or a tracker."""
        return self.tracker is not None or self._folder.status.exists()

    def _write(self, **changes: Any) -> None:
        if self.tracker is not None and self.tracker.run_id is not None:
            changes["tracking_run_id"] = self.tracker.run_id
        try:
            update_status(self._folder, step=self.step, **changes)
        except (OSError, RequestError) as error:  # RequestError: the file was damaged meanwhile
            log.warning("%s: cannot be written (%s)", self._folder.status, error)

    def on_start(self, *, first_step: int, total_steps: int) -> None:
        self.step = self._first_step = first_step
        self._write(status=RUNNING, total_steps=total_steps, error=None, is_tracked_whole=False)

    def on_step(self, step: int) -> None:
        self.step = step
        if step == self._first_step + 1:  # a sweep shows that the job makes progress
            self._write()

    def on_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        self._lease.check()
        self._write()

    def on_end(self, *, status: str, step: int, error: str | None) -> None:
        with suppress(LeaseLost):  # without the lease, the file may be that of another run
            self._lease.check()
            last_line = error.strip().splitlines()[-1] if error else None
            told = {} if self.tracker is None else {"is_tracked_whole": self.tracker.is_whole}
            self._write(status=status, error=last_line, **told)


def tell_end(
    hooks: Sequence[Hook], status: StatusFile, outcome: str, error: str | None = None
) -> None:
    """Call `on_end` of every hook, also if one of them fails.

    A second Ctrl-C interrupts only the current hook; it is raised after the others were called.
    """
    interrupted: KeyboardInterrupt | None = None
    for hook in hooks:
        try:
            hook.on_end(status=outcome, step=status.step, error=error)
        except KeyboardInterrupt as second:
            interrupted = second
        except Exception as trouble:  # the remaining hooks must still be called
            log.exception("while telling how it ended")
            if isinstance(trouble, HookError):
                log.warning("%s", trouble)
    if interrupted is not None:
        raise interrupted


@contextmanager
def told_how_it_ends(hooks: Sequence[Hook], status: StatusFile) -> Iterator[None]:
    """Call `on_end` of every hook with the status of the training, however it ends.

    For a RequestError, the hooks are called only if the run has a status file or a tracker.
    """

    end = partial(tell_end, hooks, status)
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
    except Diverged as found:
        log.error("failed at step %d: %s", status.step, found)
        end(FAILED, str(found))
        raise
    except BaseException:
        text = traceback.format_exc()
        log.error("failed at step %d\n%s", status.step, text)
        end(FAILED, text)
        raise
    end(FINISHED)


@contextmanager
def _logging_to(path: Path, display: Hook) -> Iterator[None]:
    """Write log records to train.log, and show warnings on the display too."""
    file = _LogFile(path, encoding="utf-8")
    file.setFormatter(_LogLines("%(asctime)s %(levelname)s %(message)s"))
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


class _LogLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """Format a record and indent all lines but the first, so that none looks like a record."""
        return "\n  ".join(map(one_line, super().format(record).split("\n")))


class _LogFile(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Ignore errors such as a full disk, for which logging would print a traceback."""


class _ToDisplay(logging.Handler):
    def __init__(self, display: Hook) -> None:
        super().__init__(logging.WARNING)
        self._display = display

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno == logging.WARNING:  # the command itself reports errors
            self._display.on_message(record.getMessage())
