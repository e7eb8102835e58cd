"""From runs on disk to the records of a report: which they are, what was measured, what it took."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from dit_lab.build.cost import recorded_cost, training_seconds
from dit_lab.config.axes import settings_of
from dit_lab.config.yaml_files import read_config
from dit_lab.core.text import one_line
from dit_lab.evaluation.card import Evaluation, last_evaluation, read_evaluation
from dit_lab.report.metrics import LOSS
from dit_lab.report.results import NOT_SET, Compute, Result
from dit_lab.runs.folder import FINISHED, RunFolder, digest, flatten, read_status
from dit_lab.runs.manifest import Job, SweepFolder
from dit_lab.runs.metrics import MetricsRow, read_metrics
from dit_lab.runs.recorded import has_comparable_code, recorded_shapes, recorded_so_far
from dit_lab.runs.source_code import code_hash

Config = Mapping[str, Any]

REPEATS = ("sample.seed", "evaluation.seed")  # axes that repeat an evaluation of the same weights
CHOOSE_WEIGHTS = ("sample.weights", "ema.")  # axes whose values are other averages
CURVES = ("train/loss", "eval/loss")


@dataclass(frozen=True, slots=True)
class Run:
    """A run with what a report needs to know of it, before the records are made.

    Its name and its settings are of one line, whatever was recorded.
    """

    name: str
    folder: RunFolder
    config: Config
    settings: Mapping[str, str]
    status: str
    evaluation: Evaluation | None

    def __post_init__(self) -> None:
        settings = {one_line(key): one_line(text) for key, text in self.settings.items()}
        object.__setattr__(self, "name", one_line(self.name))
        object.__setattr__(self, "settings", settings)


# ---- which runs ---------------------------------------------------------------------------------


def runs_of_sweep(folder: SweepFolder) -> list[Run]:
    """The jobs of a sweep, told apart by its axes."""
    jobs = folder.read().jobs
    return [
        Run(
            name=f"job {job.number}",
            folder=(run := folder.run(job)),
            config=folder.read_config(job),
            settings=settings,
            status=job.status,
            evaluation=_read(run.evaluations, folder.read_result(job).get("evaluation")),
        )
        for job, settings in zip(jobs, settings_of_jobs(jobs), strict=True)
    ]


def settings_of_jobs(jobs: Sequence[Job]) -> list[dict[str, str]]:
    """What is set for each job on the axes of all of them, `NOT_SET` where it has no such
    setting."""
    of_each = [settings_of(job.overrides) for job in jobs]
    longest = max(of_each, key=len, default={})  # has the axes in their order, mostly all of them
    columns = dict.fromkeys([*longest, *(axis for settings in of_each for axis in settings)])
    return [{axis: settings.get(axis, NOT_SET) for axis in columns} for settings in of_each]


def runs_of_sweeps(folders: Sequence[SweepFolder]) -> list[Run]:
    """The jobs of several sweeps, told apart by the axes of all of them, and by what is the same
    throughout each sweep and different in another."""
    of_each = [runs_of_sweep(folder) for folder in folders]
    axes = dict.fromkeys(axis for runs in of_each for run in runs for axis in run.settings)
    keys = _differing([run.config for runs in of_each for run in runs])
    among = [set(_differing([run.config for run in runs])) for runs in of_each]
    between = [key for key in keys if not any(key in varied for varied in among)]
    columns = dict.fromkeys([*(key.removeprefix("choices.") for key in between), *axes])
    return [
        replace(
            run,
            name=f"{run.name} of {folder.root.name}",
            settings={**_pick_named(run.config, columns), **run.settings},
        )
        for folder, runs in zip(folders, of_each, strict=True)
        for run in runs
    ]


def runs_of_folders(folders: Iterable[RunFolder]) -> list[Run]:
    """Any runs, told apart by the members of groups and the keys in which they differ."""
    runs = [
        Run(
            name=str(folder.root),
            folder=folder,
            config=read_config(folder),
            settings={},
            status=(status := read_status(folder)).get("status", "?"),
            evaluation=last_evaluation(folder.evaluations, step=status.get("step", 0)),
        )
        for folder in folders
    ]
    columns = _differing([run.config for run in runs])
    return [replace(run, settings=_pick(run.config, columns)) for run in runs]


def _read(folder: Path, name: str | None) -> Evaluation | None:
    return read_evaluation(folder / name) if name else None


def _differing(configs: Sequence[Config]) -> list[str]:
    """Groups and keys with more than one value; a key that only follows its group is left out."""
    leaves = [dict(flatten(config)) for config in configs]
    every = dict.fromkeys(key for of_run in leaves for key in of_run)
    found = [key for key in every if len({str(of_run.get(key)) for of_run in leaves}) > 1]
    chosen = {key for key in found if key.startswith("choices.")}

    def follows(key: str) -> bool:
        group = f"choices.{key.partition('.')[0]}"
        values: dict[Any, set[str]] = defaultdict(set)
        for of_run in leaves:
            values[of_run.get(group)].add(str(of_run.get(key)))
        return group in chosen and all(len(of_member) == 1 for of_member in values.values())

    places = ("paths.", "tracking.", "name", "resume")
    return [
        key
        for key in found
        if not follows(key) and not key.startswith(places) and key != "choices.experiment"
    ]


def _pick_named(config: Config, names: Iterable[str]) -> dict[str, str]:
    """Of a group the chosen member, of a key its value; `NOT_SET` where there is no such key."""
    leaves = _texts(config)
    return {name: leaves.get(f"choices.{name}", leaves.get(name, NOT_SET)) for name in names}


def _pick(config: Config, keys: Sequence[str]) -> dict[str, str]:
    leaves = _texts(config)
    return {key.removeprefix("choices."): leaves.get(key, NOT_SET) for key in keys}


def _texts(config: Config) -> dict[str, str]:
    """Every value as text; a run as NAME/HASH, wherever it lies."""
    runs = f"{config['paths']['root']}/runs/"
    return {key: str(value).removeprefix(runs) for key, value in flatten(config)}


# ---- records ------------------------------------------------------------------------------------


def results(runs: Sequence[Run]) -> list[Result]:
    """One record a run; evaluations of one run with several seeds are one record, with their
    spread."""
    together: dict[tuple[Any, ...], list[Result]] = defaultdict(list)
    identities = [
        recorded_so_far(run.folder) if run.folder.identity.exists() else {} for run in runs
    ]
    for run, identity, code in zip(runs, identities, _code(identities), strict=True):
        result = _result(run, code=code, data=identity.get("data_fingerprint", ""))
        together[(tuple(result.settings.items()), result.seed, run.folder.root)].append(result)
    return [_merged(same) for same in together.values()]


def _code(identities: Iterable[Mapping[str, Any]]) -> list[str]:
    """Of each run a hash that is equal where no source file differs that two runs share; "" where
    it is unknown. Runs of other components have other files."""
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
        status=run.status,
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


def measured(run: Run) -> dict[str, float]:
    """What a finished run is judged by: its loss, and what its samples were found to be."""
    losses = read_status(run.folder).get("results") or {}
    known = {LOSS: losses[LOSS]} if LOSS in losses else {}
    rows = run.evaluation.rows if run.evaluation else ()
    return {**known, **{row.key: row.value for row in rows}}


def configuration(run: Run) -> dict[str, str]:
    """Its settings without the seeds."""
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
    """A hash of how it was measured, but for what is the configuration's own."""
    if run.evaluation is None:
        return ""
    names = ["num_images", "labels", "seed", "num_seeds", "metrics_seed", "reference", "features",
             "codec", "chunk_images", "dtype"]  # fmt: skip
    if not any(key.startswith(CHOOSE_WEIGHTS) for key in run.settings):
        names.append("weights")
    return digest({name: getattr(run.evaluation.card, name) for name in names})


def _merged(same: Sequence[Result]) -> Result:
    if len(same) == 1:
        return same[0]
    names = set.intersection(*(set(result.metrics) for result in same))
    values = {name: [result.metrics[name] for result in same] for name in names}
    return replace(
        same[0],
        metrics={name: fmean(found) for name, found in values.items()},
        deviations={name: stdev(found) for name, found in values.items()},
        protocol="",  # they differ in their seed by intention
    )
