"""What the store should hold of a run, read from the run folder, and what it lacks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from dit_lab.core.text import counted
from dit_lab.runs.folder import FAILED, FINISHED, KILLED, RunFolder
from dit_lab.runs.metrics import MetricsRow, read_metrics
from dit_lab.tracking.kept_files import lacking_files, log_file
from dit_lab.tracking.mlflow_store import (
    METRICS_PER_REQUEST,
    as_params,
    as_tags,
    clean_key,
    log_texts,
)
from dit_lab.tracking.spool import finite_metrics
from dit_lab.tracking.trained_model import log_trained

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

TERMINAL = (FINISHED, FAILED, KILLED)


class Point(NamedTuple):
    """One value of one metric, under the name that MLflow accepts."""

    key: str
    value: float
    milliseconds: int  # since the epoch
    step: int


def points_of(rows: Iterable[MetricsRow]) -> list[Point]:
    """Return the values of some rows, in order."""
    return [
        Point(clean_key(name), value, int(row.seconds * 1000), row.step)
        for row in rows
        for name, value in finite_metrics(row.metrics).items()
    ]


def steps_in_store(client: MlflowClient, run: Run) -> dict[str, set[int]]:
    """Return metric key -> the steps of which the store has a value."""
    run_id, keys = run.info.run_id, run.data.metrics
    return {key: {p.step for p in client.get_metric_history(run_id, key)} for key in keys}


def log_points(client: MlflowClient, run_id: str, points: Sequence[Point]) -> None:
    """Send points, in requests as large as MLflow allows."""
    from mlflow.entities import Metric

    for start in range(0, len(points), METRICS_PER_REQUEST):
        some: list[Metric] = [Metric(*p) for p in points[start : start + METRICS_PER_REQUEST]]
        client.log_batch(run_id, metrics=some)


@dataclass(frozen=True, kw_only=True)
class Record:
    """What the store should hold of a run, according to the run folder."""

    folder: RunFolder
    params: Mapping[str, str]
    tags: Mapping[str, str]
    points: Sequence[Point]
    status: str
    ended: int  # milliseconds since the epoch

    @classmethod
    def of(
        cls,
        folder: RunFolder,
        config: Mapping[str, Any],
        *,
        tags: Mapping[str, str],
        status: Mapping[str, Any],
    ) -> Record:
        rows = [*read_metrics(folder.metrics), *read_metrics(folder.pending_metrics)]
        error = {"error": status["error"]} if status.get("error") else {}
        return cls(
            folder=folder,
            params=as_params(config),
            tags=as_tags({**tags, **error}),
            points=points_of(rows),
            status=status["status"],
            ended=int(status["updated"] * 1000),
        )

    def seems_complete(self, run: Run) -> bool:
        """Return whether the store has every text, the newest point of every metric, and the end.

        This can be checked without requesting all points and files. The end is sent last.
        """
        newest: dict[str, Point] = {}
        for point in self.points:
            if point.key not in newest or point.step >= newest[point.key].step:
                newest[point.key] = point
        return (
            run.info.status in TERMINAL
            and not self.folder.pending_metrics.exists()
            and self.params.keys() <= run.data.params.keys()
            and self.tags.keys() <= run.data.tags.keys()
            and all(run.data.metrics.get(key) == point.value for key, point in newest.items())
        )

    def complete(self, client: MlflowClient, run: Run) -> str:
        """Send what the store lacks, and last how the run ended; return how much it was, in words.

        Returns "" if the store lacked nothing.
        """
        run_id = run.info.run_id
        params = {k: text for k, text in self.params.items() if k not in run.data.params}
        tags = {k: text for k, text in self.tags.items() if k not in run.data.tags}
        known = steps_in_store(client, run)
        points = [p for p in self.points if p.step not in known.get(p.key, ())]
        files = lacking_files(client, run_id, self.folder)
        log_texts(client, run_id, params=params, tags=tags)
        log_points(client, run_id, points)
        for path in files:
            log_file(client, run_id, path, self.folder)
        self.folder.pending_metrics.unlink(missing_ok=True)
        counts = {"point": points, "parameter": params, "tag": tags, "file": files}
        sent = [counted(len(of), name) for name, of in counts.items() if of]
        if run.info.status not in TERMINAL:
            if self.status == FINISHED:
                log_trained(client, run_id)
            client.set_terminated(run_id, self.status, end_time=self.ended)
            sent.append("final status")
        return ", ".join(sent)
