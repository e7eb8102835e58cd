"""What a sweep is to do: typed axes to composed, checked jobs. Nothing is written. Torch-free."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from hydra.core.override_parser.types import Override

from dit_lab.config import search_path
from dit_lab.config.axes import (
    SEARCH,
    axes_of,
    check_extras,
    corners,
    is_for_launcher,
    name_of,
    product,
    recipe_axes,
    settings_of,
    sweep_overrides,
)
from dit_lab.config.checks.machine import with_processes
from dit_lab.config.checks.training import check_data
from dit_lab.config.compose import Composer, of_one_training
from dit_lab.config.equivalence import SAME_MATHEMATICS, idea
from dit_lab.config.hydra_compose import check_launcher
from dit_lab.config.identity import config_hash, run_folder
from dit_lab.config.objects import to_tree
from dit_lab.config.overrides import option
from dit_lab.config.prepare import check_request, prepare_folder
from dit_lab.config.schema import RunConfig, Sweep, TrainConfig
from dit_lab.config.yaml_files import read_recipe
from dit_lab.core.errors import RequestError
from dit_lab.core.options import target_of
from dit_lab.core.text import checked_name
from dit_lab.core.types import Shapes
from dit_lab.evaluation.table import is_row_key
from dit_lab.report.metrics import LEADING, LOSS, OF_OBJECTIVE, loss_of, refuse_incomparable
from dit_lab.runs.folder import digest
from dit_lab.runs.manifest import Job, Manifest
from dit_lab.sweeps.slots import make_slots


@dataclass(frozen=True, slots=True)
class Plan:
    """A sweep before it is made: its manifest, and what each job is. Of a search, which has no jobs
    yet, `configs` are two corners of what it may choose from."""

    manifest: Manifest
    configs: list[RunConfig]
    shapes: list[Shapes]
    anew: bool  # resume=never: the runs that lie there are set aside
    left_out: dict[str, int]  # why jobs were refused, with sweep.on_refusal=skip -> how many
    notes: list[str]  # what of a recipe, an arm or an axis does not apply, and why


@dataclass(frozen=True, slots=True)
class Composed:
    """Jobs' configurations, and what the sweep has once: its `sweep` group and its name."""

    texts: list[Sequence[str]]  # of each job
    configs: list[RunConfig]
    shapes: list[Shapes]
    left_out: dict[str, int]
    notes: list[str]
    settings: Sweep
    name: str
    anew: bool


def compose_jobs(
    typed: Sequence[Override],
    texts: Iterable[Sequence[str]],
    config_dirs: Iterable[str],
    *,
    of_recipe: Collection[str] = (),
    elsewhere: bool = False,
) -> Composed:
    """The configuration of each job, whose axes have the values in `texts` (`seed=0`), checked as
    `dit-lab train` would; raises RequestError, or leaves out what is refused.

    of_recipe: the axes that are not typed, but the recipe's.
    elsewhere: jobs may run on machines that have other devices than this one.
    """
    composer = Composer([Path(path) for path in config_dirs])
    fixed = [str(one.input_line) for one in typed if not one.is_sweep_override()]
    kept: list[Sequence[str]] = []
    configs: list[TrainConfig] = []
    shapes: list[Shapes] = []
    left_out: Counter[str] = Counter()
    notes: dict[str, None] = {}
    unread: set[str] | None = None  # typed keys that no job has
    first_texts: Sequence[str] = ()
    for of_job in texts:
        try:
            found = composer.compose([*fixed, *of_job], recipe_axes=of_recipe, of_sweep=True)
            if not elsewhere:
                with_processes(found.config)  # again by the job, on the devices of its slot
            of_data = check_request(found.config, look=check_data)
        except RequestError as refusal:
            if not left_out and not _skips(fixed, configs):
                raise RequestError(f"{refusal}{_blamed(refusal, of_recipe)}") from None
            left_out[str(refusal)] += 1
            continue
        notes |= dict.fromkeys(found.notes)
        first_texts = first_texts or of_job
        unread = set(found.dropped) & (set(found.dropped) if unread is None else unread)
        own = [text for text in of_job if text.partition("=")[0].lstrip("+") not in found.dropped]
        if len(own) == len(of_job) or own not in kept:  # else it is one that is there
            kept.append(own)
            configs.append(found.config)
            shapes.append(of_data)
    if unread and set(unread) - set(of_recipe):  # refused as where nothing is dropped
        composer.compose([*fixed, *first_texts], recipe_axes=of_recipe)
    if not configs:
        raise RequestError(f"all {left_out.total()} jobs are refused: {next(iter(left_out))}")
    first = configs[0]
    keys = [one.key_or_group for one in typed if one.is_sweep_override()]
    given = first.sweep.name or first.choices.get("experiment") or name_of(keys)
    name = checked_name("sweep.name", given)
    anew = first.resume == "never"
    jobs = [_of_a_job(config, name) for config in configs]
    return Composed(kept, jobs, shapes, dict(left_out), list(notes), first.sweep, name, anew)


def _blamed(refusal: RequestError, of_recipe: Collection[str]) -> str:
    """Whose axis has the value that is refused, where it was not typed."""
    key = str(refusal).partition("=")[0]
    return f"; {key} is an axis of the recipe" if key in of_recipe else ""


def _of_a_job(config: TrainConfig, sweep: str) -> RunConfig:
    """The configuration of a job: without `sweep`, and in the sweep's experiment of the tracker
    where nothing else was asked for."""
    job = of_one_training(config)
    if config.tracking.experiment == config.name:
        job = replace(job, tracking=replace(job.tracking, experiment=sweep))
    # old runs are set aside once, before the first job
    return replace(job, resume="auto") if job.resume == "never" else job


def _skips(fixed: Sequence[str], configs: Sequence[TrainConfig]) -> bool:
    """Whether jobs that are refused are left out: what a job says that was not refused, or else the
    command or its recipe."""
    if configs:
        return configs[0].sweep.on_refusal == "skip"
    given = option(fixed, "sweep.on_refusal")
    folder = search_path.experiments().get(str(option(fixed, "experiment")))
    recipe = read_recipe(folder / "recipe.yaml") if folder else {}
    return bool((given or recipe.get("sweep", {}).get("on_refusal")) == "skip")


def plan_sweep(overrides: Sequence[str], *, config_dirs: Iterable[Path] = ()) -> Plan:
    """Every job composed and checked as `dit-lab train` would; raises RequestError."""
    check_extras(overrides)
    typed, search = sweep_overrides(overrides), SEARCH in overrides
    axes = axes_of(typed, search=search)
    texts = corners(typed) if search else product(typed)
    dirs = [str(path.absolute()) for path in config_dirs]
    launcher = [text for text in overrides if is_for_launcher(text)]
    if launcher:
        check_launcher(launcher)
    of_recipe = recipe_axes(overrides)
    composed = compose_jobs(typed, texts, dirs, of_recipe=of_recipe, elsewhere=bool(launcher))
    if not search:  # an axis of which no job has a value is none
        left = settings_of(text for of_job in composed.texts for text in of_job)
        axes = {key: values for key, values in axes.items() if key in left}
    settings = {
        **asdict(composed.settings),
        "launcher": launcher,
        "search": search,
    }
    make_slots(settings["slots"], jobs_per_slot=settings["jobs_per_slot"])
    if search:
        _check_search(axes, composed)
    _check_metric(composed)
    _check_runs(composed)
    pairs = zip(composed.texts, composed.configs, strict=True)
    jobs = [job_of(number, *pair) for number, pair in enumerate(pairs)]
    _refuse_twins(jobs)
    manifest = Manifest(
        name=composed.name,
        typed=list(overrides),
        config_dirs=dirs,
        identity=digest({"jobs": [job.config_hash for job in jobs]}),
        axes=axes,
        settings=settings,
        tracking=asdict(composed.configs[0].tracking),
        jobs=[] if search else jobs,
    )
    return Plan(
        manifest,
        composed.configs,
        composed.shapes,
        anew=composed.anew,
        left_out=composed.left_out,
        notes=composed.notes,
    )


def job_of(number: int, texts: Sequence[str], config: RunConfig) -> Job:
    """A job that has not run, for `texts` on the axes."""
    return Job(
        number=number,
        overrides=list(texts),
        config_hash=config_hash(config),
        run=str(run_folder(config).root.relative_to(config.paths.root)),
    )


def _check_search(axes: Mapping[str, Sequence[str]], composed: Composed) -> None:
    if composed.anew:
        raise RequestError(f"resume=never: not with {SEARCH}; give another name or sweep.name")
    measured = composed.configs[0].evaluation.num_images > 0
    metric = composed.settings.metric or ("" if measured else LOSS)
    first = composed.configs[0]
    names = axes.get("objective", [first.choices["objective"]])
    of_it = [key for key in axes if key.startswith(OF_OBJECTIVE)]
    options = [{key: text} for key in of_it for text in axes[key]] or [{}]
    target = target_of(first.objective)
    objectives = [loss_of(name, target, option) for name in names for option in options]
    refuse_incomparable(metric, objectives, key="sweep.metric")


def _check_metric(composed: Composed) -> None:
    """Refuse a `sweep.metric` that no job can measure, before the first has run."""
    metric = composed.settings.metric
    if metric is None or metric == LOSS:
        return
    if not is_row_key(metric):
        raise RequestError(
            f"sweep.metric={metric}: no such metric; give {LOSS} or one of the evaluation's table, "
            f"such as {LEADING[0]}_n360"
        )
    if not all(config.evaluation.num_images for config in composed.configs):
        raise RequestError(
            f"sweep.metric={metric}: samples are not measured; give evaluation.num_images=N, or "
            f"sweep.metric={LOSS}"
        )


def _check_runs(composed: Composed) -> None:
    """Refuse results that cannot be written, or that are other runs', before the first job."""
    for config, shapes in zip(composed.configs, composed.shapes, strict=True):
        prepare_folder(replace(config, resume="never") if composed.anew else config, shapes)


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
    """What does not apply, jobs that were refused, that are one training, or that are expected to
    agree, in words."""
    if plan.manifest.settings["search"]:
        return plan.notes
    once = _alike(plan, lambda config: run_folder(config).root)
    agreeing = [
        group
        for group in _alike(plan, lambda config: idea(to_tree(config)))
        if len({job.run for job in group}) > 1
    ]
    said = {
        "the same weights, trained once and measured each": once,
        f"{SAME_MATHEMATICS}; they are expected to agree": agreeing,
    }
    refused = [
        f"left out {count} job{'s' if count > 1 else ''}: {why}"
        for why, count in plan.left_out.items()
    ]
    return (
        plan.notes
        + refused
        + [
            f"jobs {'; '.join(map(_numbers, groups))}: {what}"
            for what, groups in said.items()
            if groups
        ]
    )


def _alike(plan: Plan, key: Callable[[RunConfig], object]) -> list[list[Job]]:
    groups: dict[str, list[Job]] = defaultdict(list)
    for job, config in zip(plan.manifest.jobs, plan.configs, strict=True):
        groups[str(key(config))].append(job)
    return [group for group in groups.values() if len(group) > 1]


def _numbers(jobs: Sequence[Job]) -> str:
    """`0, 2 and 5`, and `0 to 7` for all from one to another."""
    numbers = [job.number for job in jobs]
    if len(numbers) > 2 and numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]} to {numbers[-1]}"
    return f"{', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"
