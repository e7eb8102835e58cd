"""A run in MLflow, updated from a thread that training does not wait for.

`metrics.jsonl` in the run folder is complete; MLflow has a copy. What the store has not taken when
a process ends is sent when the same run is opened again.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsFloat

from dit_lab.core.errors import RequestError
from dit_lab.core.types import Hook
from dit_lab.runs.folder import FAILED, FINISHED, KILLED, RunFolder
from dit_lab.runs.metrics import MetricsRow, read_metrics
from dit_lab.tracking.addresses import check_uri, is_local, shown
from dit_lab.tracking.inputs import log_data
from dit_lab.tracking.kept_files import lacking_files, log_file
from dit_lab.tracking.mlflow_store import (
    METRICS_PER_REQUEST,
    as_params,
    as_tags,
    clean_text,
    compare,
    load_mlflow,
    log_texts,
    open_client,
    prepare_store,
    root_cause,
)
from dit_lab.tracking.notes import describe_run
from dit_lab.tracking.record import (
    TERMINAL,
    Point,
    log_points,
    points_of,
    steps_in_store,
)
from dit_lab.tracking.spool import finite_metrics
from dit_lab.tracking.trained_model import log_trained

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_log = logging.getLogger(__name__)

SEND_EVERY_SECONDS = 5.0
LONGEST_PAUSE_SECONDS = 60.0  # between two attempts while a store does not answer
START_SECONDS = 10.0  # longest wait for a remote store at the start of training
END_SECONDS = 20.0  # longest wait for the rest to be sent at the end of training


class MlflowRun(Hook):
    """Opens a run in MLflow and keeps it up to date; `run_id` is None until the store has it.

    With `run_id`, that run is resumed at `resume_step`. Parameters and tags that differ become tags
    `resume.<n>.<key>`, since MLflow's parameters cannot change. Points that the store has are not
    sent again. If the store does not know the run id, a new run is created.
    """

    def __init__(
        self,
        uri: str,
        *,
        experiment: str,
        artifact_root: Path,
        folder: RunFolder,
        name: str,
        config: Mapping[str, Any],
        tags: Mapping[str, str],
        labels: Mapping[str, str] | None = None,
        run_id: str | None = None,
        resume_step: int = 0,
    ) -> None:
        """Connect to the store.

        A remote store that does not answer costs at most `START_SECONDS` and one warning.

        Raises:
            RequestError: if the user must correct something.
        """
        check_uri(uri)
        self._uri, self._experiment, self._artifact_root = uri, experiment, artifact_root
        self._folder, self._name = folder, name
        self._params, self._tags = as_params(config), as_tags(tags)
        self._labels, self._config = as_tags(labels or {}), config
        self._run_id, self._resume_step = run_id, resume_step
        self._take_up_again = run_id is not None
        self._client: MlflowClient | None = None
        self._in_store: dict[str, set[int]] = {}  # metric key -> steps that the store has
        self._points: deque[Point] = deque()
        self._batch: list[Point] = []  # taken from `_points`, not yet accepted
        self._files: deque[Path] = deque()
        self._files_compared = False
        self._outcome: tuple[str, str | None] | None = None  # (status, error), once the run ended
        self.is_whole = False  # whether the store has taken everything, the outcome included
        self._trouble = ""
        self._refused: RequestError | None = None
        self._closing, self._tried = threading.Event(), threading.Event()
        self._points.extend(points_of(read_metrics(folder.metrics)))
        load_mlflow()  # not in the thread: concurrent imports in two threads fail
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()
        self._await_start()

    @property
    def run_id(self) -> str | None:
        """The run's id, stored with checkpoints so that a resumed training continues the run."""
        return self._run_id

    def on_metrics(self, step: int, metrics: Mapping[str, SupportsFloat]) -> None:
        self._points.extend(points_of([MetricsRow(step, time.time(), finite_metrics(metrics))]))

    def on_artifact(self, step: int, path: Path) -> None:
        self._files.append(path)

    def on_end(self, *, status: str, step: int, error: str | None) -> None:
        """Send the rest for up to `END_SECONDS`, then end the run as FINISHED, FAILED or KILLED.

        The run is ended only if the store has taken everything: a run that has ended there is
        complete. The last line of `error` becomes a tag; an error of several lines also
        `traceback.txt`.
        """
        if self._outcome is not None:
            return
        assert status in (FINISHED, FAILED, KILLED), status
        self._outcome = (status, error)
        self._closing.set()
        self._thread.join(END_SECONDS)
        rows = len({point.step for point in [*self._batch, *self._points]})
        if not self.is_whole:
            _log.warning(
                "MLflow at %s lacks data of this run (%s); metric rows left: %d, files left: %d; "
                "they are in %s; send them with `dit-lab doctor` or the same command",
                shown(self._uri),
                self._trouble or "too slow",
                rows,
                len(self._files),
                self._folder.root,
            )

    # ---- sending thread -------------------------------------------------------------------------

    def _work(self) -> None:
        """Send what waits until the run has ended, and then the rest until `END_SECONDS` pass."""
        trouble = self._send_everything()
        if trouble and self._refused is None and is_local(self._uri):
            self._refused = RequestError(f"tracking.uri={self._uri}: cannot be used: {trouble}")
        raised = self._refused is not None and not self._trouble  # the constructor raises it
        if not raised:
            self._report(trouble)
        self._tried.set()
        pause = 1.0
        while not raised:
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS) if trouble else SEND_EVERY_SECONDS
            if self._closing.wait(pause):
                break
            trouble = self._send_everything()
            self._report(trouble)
        deadline = time.monotonic() + END_SECONDS
        while not raised and (trouble := self._send_everything()):
            self._trouble = trouble
            if time.monotonic() > deadline:
                break
            time.sleep(1.0)

    def _await_start(self) -> None:
        """Wait for the first attempt, and raise the RequestError that it found."""
        answered = self._tried.wait(None if is_local(self._uri) else START_SECONDS)
        if not answered:
            self._report(f"no answer in {START_SECONDS:.0f} s")
        elif self._refused is not None:
            raise self._refused

    def _send_everything(self) -> str:
        """Send all that waits, and the outcome if nothing fails; return what failed, or ""."""
        trouble = ""
        for send in (self._connect, self._send_points, self._send_files, self._send_outcome):
            if trouble and send == self._send_outcome:
                break
            try:
                send()
            except RequestError as error:
                self._refused = error
                trouble = str(error)
            except Exception as error:  # tracking must not stop a training
                trouble = root_cause(error)
            if self._client is None:
                break
        return trouble

    def _report(self, trouble: str) -> None:
        """Warn when the store begins to fail, and log when it works again."""
        if trouble and not self._trouble:
            _log.warning(
                "MLflow at %s cannot be updated (%s); training goes on, metrics are kept in %s and "
                "sent once it can",
                shown(self._uri),
                trouble,
                self._folder.metrics,
            )
        elif self._trouble and not trouble:
            _log.info("MLflow at %s is updated again", shown(self._uri))
        self._trouble = trouble

    def _connect(self) -> None:
        """Create or find the run; each part may be repeated after a failure."""
        if self._client is not None:
            return
        experiment_id = prepare_store(
            self._uri, experiment=self._experiment, artifact_root=self._artifact_root
        )
        client = open_client(self._uri)
        known = self._find(client) if self._take_up_again else None
        if self._run_id is None:
            self._run_id = client.create_run(experiment_id, run_name=self._name).info.run_id
        describe_run(client, client.get_run(self._run_id), self._folder, anew=True)
        log_data(client, self._run_id, self._folder, self._config)
        if known is not None:  # last, since each call counts as a resume
            self._take_up(client, known)
        else:
            log_texts(client, self._run_id, params=self._params, tags=self._labels | self._tags)
        self._client = client

    def _find(self, client: MlflowClient) -> Run | None:
        """Return the run to resume; None if it was deleted or was never in this store."""
        from mlflow.exceptions import MlflowException

        assert self._run_id is not None
        try:
            run = client.get_run(self._run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            run = None
        if run is not None and run.info.lifecycle_stage == "active":
            return run
        _log.warning("MLflow run %s is not in the store any more; a new one is made", self._run_id)
        self._run_id, self._take_up_again = None, False
        return None

    def _take_up(self, client: MlflowClient, run: Run) -> None:
        """Resume a run: set it to RUNNING, and log new and changed parameters and tags."""
        run_id, known = run.info.run_id, run.data
        self._in_store = steps_in_store(client, run)
        earlier = re.findall(r"^resume\.(\d+)", "\n".join(known.tags), re.MULTILINE)
        resume = f"resume.{max(map(int, earlier), default=0) + 1}"
        new_params, changed_params = compare(known.params, self._params)
        new_tags, changed_tags = compare(known.tags, self._tags)
        changes = {f"{resume}.{key}": text for key, text in (changed_params | changed_tags).items()}
        tags = (
            self._labels | new_tags | as_tags(changes) | {f"{resume}.step": str(self._resume_step)}
        )
        client.update_run(run_id, status="RUNNING")
        if "error" in known.tags:
            client.delete_tag(run_id, "error")  # of the interrupted training
        log_texts(client, run_id, params=new_params, tags=tags)

    def _connected(self) -> tuple[MlflowClient, str]:
        assert self._client is not None and self._run_id is not None
        return self._client, self._run_id

    def _send_points(self) -> None:
        client, run_id = self._connected()
        while self._points or self._batch:
            while self._points and len(self._batch) < METRICS_PER_REQUEST:
                self._batch.append(self._points.popleft())
            fresh = [p for p in self._batch if p.step not in self._in_store.get(p.key, ())]
            log_points(client, run_id, fresh)
            self._batch.clear()

    def _send_files(self) -> None:
        client, run_id = self._connected()
        if not self._files_compared:
            waiting = set(self._files)
            lacking = lacking_files(client, run_id, self._folder)
            self._files.extend(path for path in lacking if path not in waiting)
            self._files_compared = True
        while self._files:
            path = self._files[0]
            try:
                log_file(client, run_id, path, self._folder)
            except Exception:
                self._files.rotate(-1)  # the next attempt begins with another file
                raise
            self._files.popleft()

    def _send_outcome(self) -> None:
        """Send how the run ended. It comes last, after everything else was taken."""
        if self._outcome is None or self.is_whole:
            return
        client, run_id = self._connected()
        status, error = self._outcome
        if error and "\n" in error.strip():
            client.log_text(run_id, clean_text(error), "traceback.txt")
        run = client.get_run(run_id)
        if run.info.status not in TERMINAL:
            describe_run(client, run, self._folder)
            if status == FINISHED:
                log_trained(client, run_id)
            last_line = {"error": error.strip().splitlines()[-1]} if error else {}
            log_texts(client, run_id, params={}, tags=as_tags(last_line))
            client.set_terminated(run_id, status)
        self.is_whole = True
