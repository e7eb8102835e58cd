"""What a sweep is to do: typed axes to composed, checked jobs. Nothing is written. Torch-free."""

from __future__ import annotations

import importlib.util
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.types import Override, ValueType

from dit_lab.lab import resources
from dit_lab.lab.checks import Shapes, check_data, check_root, check_settings
from dit_lab.lab.config import Composer, read_recipe
from dit_lab.lab.identity import deciding, identity, recorded_so_far, refuse_foreign, run_folder
from dit_lab.lab.request import parse_override
from dit_lab.runs import digest
from dit_lab.sweeps.manifest import Job, Manifest
from dit_lab.sweeps.slots import make_slots
from dit_lab.types import RequestError

Config = dict[str, Any]

ONE_FOR_ALL = ("sweep", "paths", "tracking", "resume", "trusted_modules")
"""What a sweep has once, and no axis can be."""

LAUNCHER_EXTRAS = ("joblib", "submitit", "ray")
"""Extras of this package that bring launchers of Hydra's, which are named after them."""

LISTED = (ValueType.SIMPLE_CHOICE_SWEEP, ValueType.CHOICE_SWEEP, ValueType.RANGE_SWEEP)
"""Axes that say all their values, unlike intervals and globs."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A sweep before it is made: its manifest, and what each job is."""

    manifest: Manifest
    configs: list[Config]
    shapes: list[Shapes]
    anew: bool  # resume=never: the runs that lie there are set aside


def sweep_overrides(overrides: Sequence[str]) -> list[Override]:
    """What was typed, and the axes of a named sweep that were not typed; RequestError where axes
    are written where nothing would read them."""
    parsed = [parse_override(text) for text in overrides if not _is_for_launcher(text)]
    typed = list({one.key_or_group: one for one in parsed}.values())  # the last of each key
    keys = {one.key_or_group for one in typed}
    for one in typed:
        if one.key_or_group.partition(".")[0].partition("/")[0] == "hydra":
            raise RequestError(f"{one.input_line}: not read; see docs/sweeps.md for what is")
    grid = _grid(typed)
    return typed + [parse_override(f"{k}={texts}") for k, texts in grid.items() if k not in keys]


def _is_for_launcher(text: str) -> bool:
    """Whether an override chooses one of Hydra's launchers, or sets something of it."""
    return text.lstrip("+").startswith(("hydra/launcher=", "hydra.launcher."))


def asks_for_sweep(overrides: Sequence[str]) -> bool:
    """Whether a sweep is meant although nobody said -m: a named one, with an axis left."""
    typed = sweep_overrides(overrides)
    return bool(_grid(typed)) and any(one.is_sweep_override() for one in typed)


def _grid(typed: Sequence[Override]) -> dict[str, str]:
    """The axes of the named experiment, {} where it is no sweep."""
    chosen = [one for one in typed if one.key_or_group == "experiment"]
    names = [name for one in chosen for name in _values(one)]
    grids = {
        name: _recipe_grid(recipe / "recipe.yaml")
        for name, recipe in resources.experiments().items()
        if name in names
    }
    sweeps = [name for name, grid in grids.items() if grid]
    if sweeps and len(names) > 1:
        raise RequestError(
            f"experiment={','.join(names)}: {sweeps[0]} is a sweep itself, whose axes would not be "
            "read here; run it by itself"
        )
    return grids[sweeps[0]] if sweeps else {}


def _recipe_grid(recipe: Path) -> dict[str, str]:
    settings = read_recipe(recipe).get("hydra", {})
    grid = settings.get("sweeper", {}).get("params", {})
    unread = [key for key in settings if key not in ("mode", "sweeper")]
    unread += [f"sweeper.{key}" for key in settings.get("sweeper", {}) if key != "params"]
    if unread:
        raise RequestError(
            f"{recipe}: hydra.{unread[0]}: not read from a recipe; a named sweep has hydra.mode "
            "and hydra.sweeper.params"
        )
    if bool(grid) != (settings.get("mode") == "MULTIRUN"):
        raise RequestError(
            f"{recipe}: a named sweep has both hydra.mode: MULTIRUN and hydra.sweeper.params"
        )
    return {str(key): str(values) for key, values in grid.items()}


def plan_sweep(overrides: Sequence[str], *, config_dirs: Iterable[Path] = ()) -> Plan:
    """Every job composed and checked as `dit-lab train` would; raises RequestError."""
    config_dirs = [path.absolute() for path in config_dirs]
    _check_launcher(overrides)
    typed = sweep_overrides(overrides)
    axes = {one.key_or_group: _values(one) for one in typed if one.is_sweep_override()}
    _check_axes(axes)
    texts = _product(typed)
    composer = Composer(config_dirs)
    configs = [composer.compose(of_job) for of_job in texts]
    launcher = [text for text in overrides if _is_for_launcher(text)]
    settings = {**configs[0]["sweep"], "launcher": launcher}
    name = settings["name"] or configs[0]["choices"].get("experiment") or _name_of(axes)
    for config in configs:
        del config["sweep"]  # a job has none
        if config["tracking"]["experiment"] == config["name"]:  # nothing else was asked for
            config["tracking"]["experiment"] = name
    make_slots(settings["slots"], jobs_per_slot=settings["jobs_per_slot"])
    shapes = _checked(configs)
    anew = configs[0]["resume"] == "never"
    for config in configs if anew else []:
        config["resume"] = "auto"  # the old runs are set aside once, before the first job
    jobs = [
        Job(
            number=number,
            overrides=[text for text in of_job if text.partition("=")[0].lstrip("+") in axes],
            config_hash=digest(config),
            run=str(run_folder(config).root.relative_to(config["paths"]["root"])),
        )
        for number, (config, of_job) in enumerate(zip(configs, texts, strict=True))
    ]
    _refuse_twins(jobs)
    manifest = Manifest(
        name=name,
        typed=list(overrides),
        config_dirs=[str(path) for path in config_dirs],
        axes=axes,
        settings=settings,
        tracking=configs[0]["tracking"],
        jobs=jobs,
    )
    return Plan(manifest, configs, shapes, anew)


def _check_launcher(overrides: Sequence[str]) -> None:
    """Refuse one of Hydra's launchers that is not installed, as far as they are known here."""
    for text in filter(_is_for_launcher, overrides):
        name = text.rpartition("launcher=")[2]
        extra = name.partition("_")[0]
        package = f"hydra_plugins.hydra_{extra}_launcher"
        if extra in LAUNCHER_EXTRAS and _missing(package):
            raise RequestError(f"{text}: not installed; pip install 'dit-lab[{extra}]' brings it")


def _missing(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is None
    except ModuleNotFoundError:  # not even another plugin
        return True


def _name_of(axes: Mapping[str, Any]) -> str:
    return "-".join(key.rpartition(".")[2].replace("/", "-") for key in axes)


def _product(typed: Sequence[Override]) -> list[list[str]]:
    """One list of overrides for each job, the last axis the fastest."""
    (batch,) = BasicSweeper.split_arguments(list(typed), None)
    return [list(texts) for texts in batch]


def _values(one: Override) -> list[str]:
    """The values of an axis, or the one value of a key, as text."""
    if not one.is_sweep_override():
        return [one.get_value_element_as_str().strip("'\"")]
    if one.value_type not in LISTED:
        raise RequestError(
            f"{one.input_line}: not here; give the values themselves, as in seed=0,1,2 or "
            "seed=range(3)"
        )
    return [text.strip("'\"") for text in one.sweep_string_iterator()]


def _check_axes(axes: Mapping[str, Sequence[str]]) -> None:
    if not axes:
        raise RequestError("-m: nothing is swept; give several values, such as seed=0,1,2")
    for key, values in axes.items():
        if key.partition(".")[0] in ONE_FOR_ALL:
            raise RequestError(f"{key}={','.join(values)}: one for the whole sweep; give one value")


def _checked(configs: Sequence[Config]) -> list[Shapes]:
    """Refuse what `dit-lab train` would refuse of any job, before the first is started."""
    check_root(configs[0])
    found = []
    for config in configs:
        check_settings(config)
        shapes = check_data(config)
        folder = run_folder(config)
        before = {} if config["resume"] == "never" else recorded_so_far(folder)
        refuse_foreign(folder, config, identity(config, shapes, before=before))
        found.append(shapes)
    return found


def _refuse_twins(jobs: Sequence[Job]) -> None:
    seen: dict[str, Job] = {}
    for job in jobs:
        other = seen.setdefault(job.config_hash, job)
        if other is not job:
            raise RequestError(
                f"jobs {other.number} ({' '.join(other.overrides)}) and {job.number} "
                f"({' '.join(job.overrides)}) are the same; give every value once"
            )


# ---- what can be known before it starts ---------------------------------------------------------


def remarks(plan: Plan) -> list[str]:
    """Jobs that are one training, and jobs that are expected to agree, in words."""
    once = _alike(plan, lambda config: run_folder(config).root)
    agreeing = [group for group in _alike(plan, idea) if len({job.run for job in group}) > 1]
    said = {
        "the same weights, trained once and measured each": once,
        f"{SAME_MATHEMATICS}; they are expected to agree": agreeing,
    }
    return [
        f"jobs {'; '.join(map(_numbers, groups))}: {what}"
        for what, groups in said.items()
        if groups
    ]


def _alike(plan: Plan, key: Callable[[Config], object]) -> list[list[Job]]:
    groups: dict[str, list[Job]] = defaultdict(list)
    for job, config in zip(plan.manifest.jobs, plan.configs, strict=True):
        groups[str(key(config))].append(job)
    return [group for group in groups.values() if len(group) > 1]


SAME_MATHEMATICS = "the same mathematics up to flow_matching's sigma_min"


def idea(config: Config) -> str:
    """A hash that is equal for flow matching along straight paths and rectified flow."""
    keys = deciding(config)
    if keys.pop("objective.sigma_min", 1.0) <= 1e-3:
        keys["objective._target_"] = "dit_lab.objectives.rectified_flow.RectifiedFlow"
    return digest(keys)


def _numbers(jobs: Sequence[Job]) -> str:
    *most, last = (str(job.number) for job in jobs)
    return f"{', '.join(most)} and {last}"
