"""The runs of a report, from sweeps and single runs, and the settings that distinguish them."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dit_lab.config.axes import settings_of
from dit_lab.config.yaml_files import read_config
from dit_lab.core.errors import RequestError
from dit_lab.core.files import Denied
from dit_lab.core.text import local_path
from dit_lab.evaluation.card import last_evaluation, read_evaluation
from dit_lab.report.results import ARM, NOT_SET
from dit_lab.report.runs import REPEATS, Run, without_seeds
from dit_lab.report.values import is_same, key_of
from dit_lab.runs.finding import find_run
from dit_lab.runs.folder import FINISHED, RunFolder, digest, flatten, is_deciding, read_status
from dit_lab.runs.manifest import Job, SweepFolder, sweep_at, sweep_called
from dit_lab.runs.recorded import MEASURING

Config = Mapping[str, Any]

DRAWING = ("sampler", "guidance")
"""Groups that decide how images are sampled, and not the weights."""


def find(given: str, *, root: Path) -> SweepFolder | RunFolder:
    """Return the sweep or the run that a user names.

    Args:
        given: its folder, its name below `<root>/sweeps` or `<root>/runs`, the id of its MLflow
            run, or the `sweep.name` of one sweep.
        root: `paths.root`.

    Raises:
        RequestError: if there is no such sweep or run, or it cannot be read.
    """
    local_path(given, "")  # raises if it is not a path
    if sweep := sweep_at(given, root=root):
        return sweep
    refused = ""
    for place in (given, root / "runs" / given):
        try:
            return find_run(str(place), root=root)[0]
        except Denied:
            raise
        except RequestError as refusal:
            if Path(place).is_dir():  # perhaps another folder: the name may mean a run or a sweep
                refused = refused or str(refusal).partition(": ")[2]
    if sweep := sweep_called(given, root=root):
        return sweep
    if refused:
        raise RequestError(f"{given}: {refused}")
    raise RequestError(
        f"{given}: no sweep and no run; give a folder below {root / 'sweeps'} or {root / 'runs'}, "
        "its name there, or the id of its run in MLflow"
    )


# ---- one sweep ----------------------------------------------------------------------------------


def runs_of_sweep(folder: SweepFolder) -> list[Run]:
    """Return the jobs of a sweep, distinguished by its axes."""
    jobs = folder.read().jobs
    return [
        _of_job(folder, job, settings)
        for job, settings in zip(jobs, settings_of_jobs(jobs), strict=True)
    ]


def _of_job(folder: SweepFolder, job: Job, settings: Mapping[str, str]) -> Run:
    """Return the run of a job; without its run folder or its evaluation it is a missing seed."""
    run, measured = folder.run(job), folder.read_result(job).get("evaluation")
    file = run.evaluations / measured if measured else None
    is_there = file is not None and file.exists()
    status = job.status
    if status == FINISHED and not run.root.is_dir():
        status = "run folder is missing"
    elif status == FINISHED and file is not None and not is_there:
        status = "evaluation is missing"
    return Run(
        name=f"job {job.number}",
        folder=run,
        config=folder.read_config(job),
        settings=settings,
        status=status,
        evaluation=read_evaluation(file) if file is not None and is_there else None,
        tracked=job.run_id,
    )


def settings_of_jobs(jobs: Sequence[Job]) -> list[dict[str, str]]:
    """Return the settings of each job on the axes of all jobs; NOT_SET if a job lacks one."""
    of_each = [settings_of(job.overrides) for job in jobs]
    longest = max(of_each, key=len, default={})  # gives the order of the axes
    columns = dict.fromkeys([*longest, *(axis for settings in of_each for axis in settings)])
    return [{axis: settings.get(axis, NOT_SET) for axis in columns} for settings in of_each]


# ---- several sweeps, and single runs ------------------------------------------------------------


def runs_of(sweeps: Sequence[SweepFolder], folders: Iterable[RunFolder]) -> list[Run]:
    """Return the jobs of sweeps and the single runs, each once, with distinguishing settings.

    The settings are the axes of all sweeps, and the keys that are constant within each sweep and
    differ between sweeps or single runs.

    Jobs are the same if they have the same run folder and the same evaluation, or the same request
    for an evaluation. A single run that is also a job is taken as the sweep evaluated it.
    """
    if len(sweeps) == 1 and not (folders := list(folders)):
        return runs_of_sweep(sweeps[0])
    of_each = [
        [replace(run, name=f"{run.name} of {folder.root.name}") for run in runs_of_sweep(folder)]
        for folder in sweeps
    ]
    jobs = _once(of_each)
    known = {run.folder.root.resolve() for run in jobs}
    alone = [_alone(folder) for folder in folders if folder.root.resolve() not in known]
    runs = [*jobs, *alone]
    among = [set(_differing([run.config for run in of_sweep])) for of_sweep in of_each]
    between = [
        key
        for key in _differing([run.config for run in runs])
        if not any(key in varied for varied in among)
    ]
    axes = [axis for run in jobs for axis in run.settings]
    return _with_distinguishing_columns(_named(runs, [*between, *axes]))


def runs_of_folders(folders: Iterable[RunFolder]) -> list[Run]:
    """Return single runs, distinguished by the groups and keys in which they differ."""
    return runs_of([], folders)


def _alone(folder: RunFolder) -> Run:
    """Return a single run with its last evaluation."""
    status = read_status(folder)
    return Run(
        name=str(folder.root),
        folder=folder,
        config=read_config(folder),
        settings={},
        status=status.get("status", "?"),
        evaluation=last_evaluation(folder, step=status.get("step", 0)),
        tracked=status.get("tracking_run_id"),
    )


def _once(of_each: Sequence[Sequence[Run]]) -> list[Run]:
    """Return the jobs of several sweeps, each once.

    If a later sweep has the same job, its settings are added to those of the earlier job. The later
    job replaces the earlier one if only the later one has finished.
    """
    kept: list[Run] = []
    known: dict[object, int] = {}
    for runs in of_each:
        new: dict[object, int] = {}
        for run in runs:
            keys = _request(run)
            place = next((known[key] for key in keys if key in known), len(kept))
            new.update(dict.fromkeys(keys, place))
            if place == len(kept):
                kept.append(run)
                continue
            before = kept[place]
            settings = dict(before.settings)
            for axis, text in run.settings.items():
                if settings.get(axis, NOT_SET) == NOT_SET:
                    settings[axis] = text
            counts = run if before.status != FINISHED and run.status == FINISHED else before
            kept[place] = replace(counts, settings=settings)
        known.update(new)
    return kept


def _request(run: Run) -> list[object]:
    """Return the keys of a job; jobs of two sweeps are the same if they share one of them."""
    asked = digest({group: run.config.get(group) for group in MEASURING})
    measured = [(run.folder.root, run.evaluation.card.eval_hash)] if run.evaluation else []
    return [(run.folder.root, f"asked {asked}"), *measured]


def _named(runs: Sequence[Run], columns: Iterable[str]) -> list[Run]:
    """Return the runs with a setting for each column, taken from their configs if not yet set.

    Equal values get equal texts. Runs without an arm get the arm with the same configuration.
    """
    names = dict.fromkeys(column.removeprefix("choices.") for column in columns)
    arms = {
        _hash_without_seeds(run): arm
        for run in runs
        if (arm := run.settings.get(ARM, NOT_SET)) != NOT_SET
    }
    texts: dict[object, str] = {}
    found = []
    for run in runs:
        settings = {**_pick(run.config, names), **run.settings}
        if settings.get(ARM) == NOT_SET:  # a single run, or a sweep without arms
            settings[ARM] = arms.get(_hash_without_seeds(run), NOT_SET)
        spelled = {
            key: texts.setdefault((key, key_of(text)), text) for key, text in settings.items()
        }
        found.append(replace(run, settings=spelled))
    return found


def _with_distinguishing_columns(runs: Sequence[Run]) -> list[Run]:
    """Return the runs with further columns if different configurations had equal settings.

    In a comparison of named arms, runs without an arm get columns that describe them. These columns
    are NOT_SET for the arms, whose names describe them.
    """
    has_arm = [run.settings.get(ARM, NOT_SET) != NOT_SET for run in runs]
    armed = list(itertools.compress(runs, has_arm))
    others = [run for run, has in zip(runs, has_arm, strict=True) if not has] if armed else []
    of_no_arm = _missing_columns([armed[0], *others]) if others else {}
    alike: dict[tuple[str, ...], list[Run]] = defaultdict(list)
    for run in armed or runs:
        alike[tuple(without_seeds(run.settings).values())].append(run)
    further = {key: None for of_one in alike.values() for key in _missing_columns(of_one)}
    if not further and not of_no_arm:
        return list(runs)
    named = _named(runs, [*runs[0].settings, *further, *of_no_arm])
    left_out = dict.fromkeys(of_no_arm, NOT_SET)
    return [
        replace(run, settings={**run.settings, **left_out}) if has else run
        for has, run in zip(has_arm, named, strict=True)
    ]


def _missing_columns(runs: Sequence[Run]) -> dict[str, None]:
    """Return the keys that make runs different configurations and are not columns yet."""
    names = (
        key.removeprefix("choices.")
        for key in _differing([run.config for run in runs])
        if _matters(key)
    )
    return dict.fromkeys(name for name in names if name not in runs[0].settings)


def _matters(key: str) -> bool:
    """Return whether a key makes another configuration, not just another seed or location."""
    name = key.removeprefix("choices.")
    if name in ("seed", *REPEATS):
        return False
    return is_deciding(name) or name.partition(".")[0] in DRAWING or name == "sample.weights"


def _hash_without_seeds(run: Run) -> str:
    """Return a hash that is equal for runs that differ only in seeds and locations."""
    return digest(
        {
            key: str(value)
            for key, value in flatten(run.config)
            if _matters(key) and not key.startswith("choices.")
        }
    )


def _differing(configs: Sequence[Config]) -> list[str]:
    """Return the groups and keys with several values.

    Keys whose value is determined by the chosen member of their group are left out.
    """
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

    places = ("paths", "tracking", "name", "resume", "experiment")
    return [
        key
        for key in found
        if not follows(key) and not key.removeprefix("choices.").startswith(places)
    ]


def _pick(config: Config, names: Iterable[str]) -> dict[str, str]:
    """Return the chosen member of each group and the value of each key, or NOT_SET."""
    runs = f"{config['paths']['root']}/runs/"  # paths of runs become NAME/HASH
    leaves = {key: str(value).removeprefix(runs) for key, value in flatten(config)}
    return {name: leaves.get(f"choices.{name}", leaves.get(name, NOT_SET)) for name in names}


# ---- filter -------------------------------------------------------------------------------------


def chosen(runs: Sequence[Run], only: Mapping[str, Sequence[str]]) -> list[Run]:
    """Return the runs that have one of the given values for every key.

    Raises:
        RequestError: if no run has a given key or value, or none has all of them.
    """
    kept = list(runs)
    for key, values in only.items():
        found = dict.fromkeys(text for run in runs if (text := _setting(run, key)) is not None)
        asked = f"report.only={key}={','.join(values)}"
        if not found:
            have = ", ".join(dict.fromkeys(["seed", *(k for run in runs for k in run.settings)]))
            raise RequestError(f"{asked}: no setting of these runs; they have {have}")
        for value in values:
            if not any(is_same(value, text) for text in found):
                raise RequestError(f"{asked}: no run has {value}; {key} is {', '.join(found)}")
        kept = [run for run in kept if any(is_same(v, str(_setting(run, key))) for v in values)]
    if only and not kept:
        all_of_them = ",".join(f"{key}={','.join(values)}" for key, values in only.items())
        raise RequestError(f"report.only={all_of_them}: no run has all of these; ask for less")
    return kept


def _setting(run: Run, key: str) -> str | None:
    return run.settings.get(key, str(run.config["seed"]) if key == "seed" else None)
