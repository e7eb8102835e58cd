"""Composition and checks of the configs of a sweep's jobs. Nothing is written. Torch-free."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from hydra.core.override_parser.types import Override

from dit_lab.config import search_path
from dit_lab.config.axes import name_of
from dit_lab.config.checks.machine import with_processes
from dit_lab.config.checks.training import check_data
from dit_lab.config.compose import Composed, Composer, of_one_training
from dit_lab.config.overrides import option
from dit_lab.config.prepare import check_request
from dit_lab.config.schema import RunConfig, Sweep, TrainConfig
from dit_lab.config.yaml_files import read_recipe
from dit_lab.core.errors import RequestError
from dit_lab.core.text import checked_name
from dit_lab.core.types import Shapes


@dataclass(frozen=True, slots=True)
class ComposedJobs:
    """The configs of the jobs, and the settings and the name of the sweep."""

    texts: list[Sequence[str]]  # overrides of each job on the axes
    configs: list[RunConfig]
    shapes: list[Shapes]
    left_out: dict[str, int]  # reason of the refusal -> number of jobs
    notes: list[str]  # options of a recipe, an arm or an axis that do not apply, and why
    settings: Sweep
    name: str
    anew: bool


def compose_jobs(
    typed: Sequence[Override],
    texts: Iterable[Sequence[str]],
    config_dirs: Sequence[Path],
    *,
    of_recipe: Collection[str] = (),
    elsewhere: bool = False,
) -> ComposedJobs:
    """Compose the config of each job, and check it as `dit-lab train` would.

    Args:
        texts: the overrides of each job on the axes, such as `seed=0`.
        of_recipe: the axes that come from the recipe, and not from the command line.
        elsewhere: whether jobs may run on machines with other devices.

    Raises:
        RequestError: if all jobs are refused, or one that `sweep.on_refusal` does not leave out.
    """
    composer = Composer(config_dirs)
    fixed = [str(one.input_line) for one in typed if not one.is_sweep_override()]
    jobs = _Jobs()
    for of_job in texts:
        try:
            found = composer.compose([*fixed, *of_job], recipe_axes=of_recipe, of_sweep=True)
            if not elsewhere:
                with_processes(found.config)  # the job checks again, on the devices of its slot
            shapes = check_request(found.config, look=check_data)
        except RequestError as refusal:
            if not jobs.left_out and not _skips_refused(fixed, jobs.configs, config_dirs):
                raise RequestError(f"{refusal}{_blamed(refusal, of_recipe)}") from None
            jobs.left_out[str(refusal)] += 1
        else:
            jobs.add(of_job, found, shapes)
    if jobs.lacking - set(of_recipe):  # no job has the option: composing with it raises the error
        composer.compose([*fixed, *jobs.first], recipe_axes=of_recipe)
    if not jobs.configs:
        total, why = jobs.left_out.total(), next(iter(jobs.left_out))
        jobs_of = "the job is" if total == 1 else f"all {total} jobs are"
        raise RequestError(f"{jobs_of} refused: {why}")
    first = jobs.configs[0]
    keys = [one.key_or_group for one in typed if one.is_sweep_override()]
    given = first.sweep.name or first.choices.get("experiment") or name_of(keys)
    name = checked_name("sweep.name", given)
    return ComposedJobs(
        texts=jobs.texts,
        configs=[_of_a_job(config, name) for config in jobs.configs],
        shapes=jobs.shapes,
        left_out=dict(jobs.left_out),
        notes=list(jobs.notes),
        settings=first.sweep,
        name=name,
        anew=first.resume == "never",
    )


@dataclass(slots=True)
class _Jobs:
    """The jobs that were composed so far."""

    texts: list[Sequence[str]] = field(default_factory=list)
    configs: list[TrainConfig] = field(default_factory=list)
    shapes: list[Shapes] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    notes: dict[str, None] = field(default_factory=dict)
    lacking: set[str] = field(default_factory=set)  # options that none of the jobs has
    first: Sequence[str] = ()  # overrides of the first job

    def add(self, texts: Sequence[str], found: Composed, shapes: Shapes) -> None:
        """Add a job without the options that it drops, unless it then equals an earlier job."""
        dropped = set(found.dropped)
        self.lacking = self.lacking & dropped if self.configs else dropped
        self.first = self.first or texts
        self.notes |= dict.fromkeys(found.notes)
        own = [text for text in texts if text.lstrip("+").partition("=")[0] not in dropped]
        if len(own) == len(texts) or own not in self.texts:
            self.texts.append(own)
            self.configs.append(found.config)
            self.shapes.append(shapes)


def _blamed(refusal: RequestError, of_recipe: Collection[str]) -> str:
    """Return a note if the refused value comes from an axis of the recipe, or ""."""
    key = str(refusal).partition("=")[0]
    return f"; {key} is an axis of the recipe" if key in of_recipe else ""


def _of_a_job(config: TrainConfig, sweep: str) -> RunConfig:
    """Return the config of a job, without `sweep`.

    It is tracked in the sweep's experiment, unless another experiment was requested.
    """
    job = of_one_training(config)
    if config.tracking.experiment == config.name:
        job = replace(job, tracking=replace(job.tracking, experiment=sweep))
    # With resume=never, old runs are set aside once, before the first job.
    return replace(job, resume="auto") if job.resume == "never" else job


def _skips_refused(
    fixed: Sequence[str], configs: Sequence[TrainConfig], config_dirs: Sequence[Path]
) -> bool:
    """Return whether refused jobs are left out.

    The config of an accepted job decides, or else the command line or the recipe.
    """
    if configs:
        return configs[0].sweep.on_refusal == "skip"
    given = option(fixed, "sweep.on_refusal")
    folder = search_path.experiments(config_dirs).get(str(option(fixed, "experiment")))
    recipe = read_recipe(folder / "recipe.yaml") if folder else {}
    return bool((given or recipe.get("sweep", {}).get("on_refusal")) == "skip")
