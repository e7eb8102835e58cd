"""Records of a report, read from run folders."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Any

from dit_lab.build.cost import recorded_cost, training_seconds
from dit_lab.core.errors import DIVERGED
from dit_lab.core.text import one_line
from dit_lab.evaluation.card import Evaluation
from dit_lab.report.metrics import LOSS
from dit_lab.report.results import Compute, Result
from dit_lab.runs.folder import FAILED, FINISHED, RunFolder, digest, read_status
from dit_lab.runs.metrics import MetricsRow, read_metrics
from dit_lab.runs.recorded import has_comparable_code, recorded_shapes, recorded_so_far
from dit_lab.runs.source_code import code_hash
from dit_lab.training.average_names import first_average

Config = Mapping[str, Any]

REPEATS = ("sample.seed", "evaluation.seed")  # axes that repeat the evaluation of the same weights
CURVES = ("train/loss", "eval/loss")


@dataclass(frozen=True, slots=True)
class Run:
    """A run as it is read for a report, before its record is made.

    The name and the settings are reduced to one line each.
    """

    name: str
    folder: RunFolder
    config: Config
    settings: Mapping[str, str]
    status: str
    evaluation: Evaluation | None
    tracked: str | None = None  # id of its MLflow run

    def __post_init__(self) -> None:
        settings = {one_line(key): one_line(text) for key, text in self.settings.items()}
        object.__setattr__(self, "name", one_line(self.name))
        object.__setattr__(self, "settings", settings)


# ---- records ------------------------------------------------------------------------------------


def results(runs: Sequence[Run]) -> list[Result]:
    """Return one record per run.

    Evaluations of one run with several seeds become one record, with the mean and the standard
    deviation of each metric.
    """
    together: dict[tuple[Any, ...], list[Result]] = defaultdict(list)
    for result in records(runs):
        together[(tuple(result.settings.items()), result.seed, result.training)].append(result)
    return [_merged(same) for same in together.values()]


def records(runs: Sequence[Run]) -> list[Result]:
    """Return one record per run and evaluation."""
    identities = [
        recorded_so_far(run.folder) if run.folder.identity.exists() else {} for run in runs
    ]
    return [
        _result(run, code=code, data=identity.get("data_fingerprint", ""))
        for run, identity, code in zip(runs, identities, _code(identities), strict=True)
    ]


def _code(identities: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return a code hash for each run; "" if unknown.

    Two runs have equal hashes if all source files that both have are equal: runs with other
    components have other files.
    """
    versions: list[dict[str, str]] = []
    found: list[dict[str, str]] = []
    for line in identities:
        files = line["code_files"] if has_comparable_code(line) else {}
        version = next((one for one in versions if _agree(one, files)), None) if files else {}
        if version is None:
            versions.append(version := {})
        version.update(files)
        found.append(version)
    return [code_hash(version) if version else "" for version in found]


def _agree(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    return all(one[name] == other[name] for name in one.keys() & other.keys())


def _result(run: Run, *, code: str, data: str) -> Result:
    rows = run.evaluation.rows if run.evaluation else ()
    finished = run.status == FINISHED
    metrics = read_metrics(run.folder.metrics)
    return Result(
        run=run.name,
        settings=configuration(run),
        seed=run.config["seed"],
        training=str(run.folder.root),
        status=_ending(run),
        metrics=measured(run) if finished else {},
        deviations={row.key: row.deviation for row in rows if row.deviation is not None},
        compute=_compute(run, metrics) if finished else None,
        code=code,
        data=data,
        protocol=_protocol(run),
        curves={
            name: points
            for name in CURVES
            if (points := [(r.step, r.metrics[name]) for r in metrics if name in r.metrics])
        },
        grid=max(run.folder.samples.glob("*.png"), default=None),
    )


def _ending(run: Run) -> str:
    """Return the status of a run; `diverged` instead of FAILED if it diverged."""
    why = read_status(run.folder).get("error") or "" if run.status == FAILED else ""
    return DIVERGED if why.startswith(DIVERGED) else run.status


def measured(run: Run) -> dict[str, float]:
    """Return the metrics of a finished run: its validation loss and the metrics of its samples."""
    losses = read_status(run.folder).get("results") or {}
    known = {LOSS: losses[LOSS]} if LOSS in losses else {}
    rows = run.evaluation.rows if run.evaluation else ()
    return {**known, **{row.key: row.value for row in rows}}


def configuration(run: Run) -> dict[str, str]:
    """Return the settings of a run without the seeds."""
    return without_seeds(run.settings)


def without_seeds(settings: Mapping[str, str]) -> dict[str, str]:
    return {key: text for key, text in settings.items() if key not in ("seed", *REPEATS)}


def _compute(run: Run, rows: Sequence[MetricsRow]) -> Compute:
    size, training = recorded_cost(run.config, recorded_shapes(run.folder)), run.config["training"]
    images = training["total_steps"] * training["global_batch_size"]
    return Compute(
        parameters=size.parameters if size else None,
        training_flops=float(size.training_flops_per_image * images) if size else None,
        seconds=training_seconds(rows, batch=training["global_batch_size"]),
        images=images,
        evaluations=run.evaluation.card.evaluations_per_image if run.evaluation else None,
    )


def _protocol(run: Run) -> str:
    """Return a hash of how a run was evaluated; "" if it was not.

    The choice of weights is part of it only if it is neither the default of the run nor an axis.
    """
    if run.evaluation is None:
        return ""
    names = ["num_images", "labels", "seed", "num_seeds", "metrics_seed", "reference", "features",
             "codec", "chunk_images", "dtype"]  # fmt: skip
    card = run.evaluation.card
    first = first_average(run.config["optimizer"]["_target_"], run.config["ema"]["decays"])
    is_own = card.weights == first or "sample.weights" in run.settings
    weights = "its own" if is_own else card.weights
    return digest({**{name: getattr(card, name) for name in names}, "weights": weights})


def _merged(same: Sequence[Result]) -> Result:
    if len(same) == 1:
        return same[0]
    names = set.intersection(*(set(result.metrics) for result in same))
    values = {name: [result.metrics[name] for result in same] for name in names}
    return replace(
        same[0],
        metrics={name: fmean(found) for name, found in values.items()},
        deviations={name: stdev(found) for name, found in values.items()},
        protocol="",  # the seeds differ on purpose
    )
