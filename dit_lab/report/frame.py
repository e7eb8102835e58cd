"""The runs of a report as a pandas table: one row per run and evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dit_lab.core.errors import RequestError
from dit_lab.core.files import atomic_path
from dit_lab.report.results import NOT_SET, Compute
from dit_lab.report.runs import Run, records
from dit_lab.report.selection import chosen, find, runs_of
from dit_lab.report.values import value_of
from dit_lab.runs.folder import RunFolder, read_status
from dit_lab.runs.manifest import SweepFolder

if TYPE_CHECKING:
    import pandas as pd

FORMATS = (".parquet", ".csv")

Only = Mapping[str, Any]
"""Key -> the wanted value or values."""


def results(
    *given: str | Path, root: str | Path = "outputs", only: Only | None = None
) -> pd.DataFrame:
    """Return the results of sweeps and runs as a pandas.DataFrame.

    The runs are those that a report on the same sweeps and runs counts.

    Args:
        given: sweeps and runs, each by its folder, its name below `root`, or the id of its MLflow
            run.
        root: `paths.root`, where names and MLflow ids are looked up.
        only: settings of the wanted runs, each with one value or several, such as
            `{"objective": ["ddpm", "rectified_flow"], "seed": 0}`.

    Returns:
        One row per run and evaluation, with settings, seed, status, metrics and compute. Missing
        values are NaN. docs/sweeps.md lists the columns.

    Raises:
        RequestError: if nothing is given, or a sweep, run, setting or value does not exist.
    """
    if not given:
        raise RequestError("dit_lab.results(): give at least one sweep or run")
    base = Path(root).absolute()
    found = [find(str(one), root=base) for one in given]
    runs = runs_of(
        [one for one in found if isinstance(one, SweepFolder)],
        [one for one in found if isinstance(one, RunFolder)],
    )
    return frame_of(chosen(runs, {key: _texts(values) for key, values in (only or {}).items()}))


def _texts(values: Any) -> list[str]:
    several = isinstance(values, Iterable) and not isinstance(values, str)
    return [str(value) for value in (values if several else [values])]


def frame_of(runs: Sequence[Run]) -> pd.DataFrame:
    """Return the table of the given runs; missing values are NaN."""
    import pandas as pd

    found = records(runs)
    settings = dict.fromkeys(key for run in runs for key in run.settings if key != "seed")
    metrics = sorted({name for one in found for name in one.metrics})
    deviations = [one.deviations if one.metrics else {} for one in found]
    spreads = sorted({name for of_run in deviations for name in of_run})
    costs = [one.compute or Compute() for one in found]
    columns = {
        "run": [run.name for run in runs],
        "folder": [str(run.folder.root) for run in runs],
        **{key: _typed([run.settings.get(key, NOT_SET) for run in runs]) for key in settings},
        "seed": [run.config["seed"] for run in runs],
        "status": [run.status for run in runs],
        "step": _numbers(map(_step, runs)),
        **{name: _numbers(one.metrics.get(name) for one in found) for name in metrics},
        **{f"{name} sd": _numbers(of.get(name) for of in deviations) for name in spreads},
        **{name: _numbers(map(read, costs)) for name, read in COSTS.items()},
        "code_hash": [one.code or None for one in found],
        "data_hash": [one.data or None for one in found],
        "mlflow_run_id": [run.tracked for run in runs],
    }  # fmt: skip
    return pd.DataFrame({name: pd.Series(values) for name, values in columns.items()})


COSTS: Mapping[str, Callable[[Compute], float | None]] = {
    "parameters": lambda one: one.parameters,
    "training_flops": lambda one: one.training_flops,
    "seconds": lambda one: one.seconds,
    "images": lambda one: one.images,
    "evaluations_per_image": lambda one: one.evaluations,
}


def _step(run: Run) -> float | None:
    """Return the step of the evaluation, or else the last step of the run."""
    if run.evaluation:
        return run.evaluation.card.step
    return read_status(run.folder).get("step")


def _numbers(values: Iterable[float | None]) -> list[float]:
    return [math.nan if value is None else float(value) for value in values]


def _typed(texts: Sequence[str]) -> list[Any]:
    """Return settings as numbers or booleans if all of them are, and else as text.

    Settings that a run does not have are None.
    """
    values = [value_of(text) for text in texts if text != NOT_SET]
    for kinds in ((int,), (int, float), (bool,)):
        if values and all(type(value) in kinds for value in values):
            return [None if text == NOT_SET else value_of(text) for text in texts]
    return [None if text == NOT_SET else text for text in texts]


def write_frame(table: pd.DataFrame, file: Path) -> None:
    """Write the table as CSV or Parquet, according to the suffix of `file`, one of `FORMATS`."""
    with atomic_path(file) as beside:
        if file.suffix == ".csv":
            table.to_csv(beside, index=False)
        else:
            table.to_parquet(beside, index=False)
