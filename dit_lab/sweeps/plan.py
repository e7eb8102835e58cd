"""Plan of a sweep, from overrides to composed and checked jobs. Nothing is written. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from dit_lab.config.arms import arms_of, lineage
from dit_lab.config.axes import (
    SEARCH,
    axes_of,
    check_extras,
    corners,
    is_for_launcher,
    product,
    recipe_axes,
    settings_of,
    sweep_overrides,
)
from dit_lab.config.hydra_compose import check_launcher
from dit_lab.config.identity import config_hash, run_folder
from dit_lab.config.prepare import prepare_folder
from dit_lab.config.schema import RunConfig
from dit_lab.core.errors import RequestError
from dit_lab.core.options import target_of
from dit_lab.core.types import Shapes
from dit_lab.evaluation.table import is_row_key
from dit_lab.report.metrics import LEADING, LOSS, OF_OBJECTIVE, loss_of, refuse_incomparable
from dit_lab.runs.folder import digest
from dit_lab.runs.manifest import Arm, Job, Manifest
from dit_lab.sweeps.compose import ComposedJobs, compose_jobs
from dit_lab.sweeps.slots import make_slots


@dataclass(frozen=True, slots=True)
class Plan:
    """A sweep before it is made: its manifest, and the config of each job.

    A search has no jobs yet; its `configs` are two corners of the search space.
    """

    manifest: Manifest
    configs: list[RunConfig]
    shapes: list[Shapes]
    anew: bool  # resume=never: existing runs are set aside
    left_out: dict[str, int]  # reason of the refusal -> number of jobs (sweep.on_refusal=skip)
    notes: list[str]  # options of a recipe, an arm or an axis that do not apply, and why


def plan_sweep(overrides: Sequence[str], *, config_dirs: Iterable[Path] = ()) -> Plan:
    """Compose every job of a sweep, and check it as `dit-lab train` would.

    Raises:
        RequestError: if the sweep or one of its jobs is refused.
    """
    check_extras(overrides)
    dirs = [path.absolute() for path in config_dirs]
    typed, search = sweep_overrides(overrides, dirs), SEARCH in overrides
    axes = axes_of(typed, search=search)
    texts = corners(typed) if search else product(typed)
    launcher = [text for text in overrides if is_for_launcher(text)]
    if launcher:
        check_launcher(launcher)
    of_recipe = recipe_axes(overrides, dirs)
    composed = compose_jobs(typed, texts, dirs, of_recipe=of_recipe, elsewhere=bool(launcher))
    if not search:  # axes on which no job has a value are dropped
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
        config_dirs=list(map(str, dirs)),
        identity=digest({"jobs": [job.config_hash for job in jobs]}),
        axes=axes,
        arms=_arms(overrides, axes, dirs),
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


def _arms(
    overrides: Sequence[str], axes: Mapping[str, Sequence[str]], config_dirs: Sequence[Path]
) -> dict[str, Arm]:
    """Return the arms of the jobs, and all arms that these build on."""
    if "arm" not in axes:
        return {}
    return {
        name: {"from": arm.stands_on, "overrides": list(arm.overrides)}
        for name, arm in lineage(axes["arm"], arms_of(overrides, config_dirs)).items()
    }


def job_of(number: int, texts: Sequence[str], config: RunConfig) -> Job:
    """Return a job that has not run, with the overrides `texts` on the axes."""
    return Job(
        number=number,
        overrides=list(texts),
        config_hash=config_hash(config),
        run=str(run_folder(config).root.relative_to(config.paths.root)),
    )


def _check_search(axes: Mapping[str, Sequence[str]], composed: ComposedJobs) -> None:
    if composed.anew:
        raise RequestError(f"resume=never: not for {SEARCH}; give another name or sweep.name")
    measured = composed.configs[0].evaluation.num_images > 0
    metric = composed.settings.metric or ("" if measured else LOSS)
    first = composed.configs[0]
    names = axes.get("objective", [first.choices["objective"]])
    of_it = [key for key in axes if key.startswith(OF_OBJECTIVE)]
    options = [{key: text} for key in of_it for text in axes[key]] or [{}]
    target = target_of(first.objective)
    objectives = [loss_of(name, target, option) for name in names for option in options]
    refuse_incomparable(metric, objectives, key="sweep.metric")


def _check_metric(composed: ComposedJobs) -> None:
    """Raise RequestError if `sweep.metric` is unknown, or if a job does not measure it."""
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


def _check_runs(composed: ComposedJobs) -> None:
    """Raise RequestError if a run folder cannot be written to, or belongs to another run."""
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
