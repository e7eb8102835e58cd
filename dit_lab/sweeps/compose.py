"""The configurations of a sweep's jobs, composed and checked. Nothing is written. Torch-free."""

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
    """Jobs' configurations, and what the sweep has once: its `sweep` group and its name."""

    texts: list[Sequence[str]]  # of each job
    configs: list[RunConfig]
    shapes: list[Shapes]
    left_out: dict[str, int]  # why jobs were refused -> how many
    notes: list[str]  # what of a recipe, an arm or an axis does not apply, and why
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
    """The configuration of each job, whose axes have the values in `texts` (`seed=0`), checked as
    `dit-lab train` would; raises RequestError, or leaves out what is refused.

    of_recipe: the axes that are not typed, but the recipe's.
    elsewhere: jobs may run on machines that have other devices than this one.
    """
    composer = Composer(config_dirs)
    fixed = [str(one.input_line) for one in typed if not one.is_sweep_override()]
    jobs = _Jobs()
    for of_job in texts:
        try:
            found = composer.compose([*fixed, *of_job], recipe_axes=of_recipe, of_sweep=True)
            if not elsewhere:
                with_processes(found.config)  # again by the job, on the devices of its slot
            shapes = check_request(found.config, look=check_data)
        except RequestError as refusal:
            if not jobs.left_out and not _skips(fixed, jobs.configs, config_dirs):
                raise RequestError(f"{refusal}{_blamed(refusal, of_recipe)}") from None
            jobs.left_out[str(refusal)] += 1
        else:
            jobs.add(of_job, found, shapes)
    if jobs.lacking - set(of_recipe):  # refused as where no option is left out
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
    """What is known of the jobs so far."""

    texts: list[Sequence[str]] = field(default_factory=list)
    configs: list[TrainConfig] = field(default_factory=list)
    shapes: list[Shapes] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    notes: dict[str, None] = field(default_factory=dict)
    lacking: set[str] = field(default_factory=set)  # options that none of them has
    first: Sequence[str] = ()  # what the first was composed of

    def add(self, texts: Sequence[str], found: Composed, shapes: Shapes) -> None:
        """Note a job, without the options that it leaves out; once where these alone tell it from
        another."""
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


def _skips(
    fixed: Sequence[str], configs: Sequence[TrainConfig], config_dirs: Sequence[Path]
) -> bool:
    """Whether jobs that are refused are left out: what a job says that was not refused, or else the
    command or its recipe."""
    if configs:
        return configs[0].sweep.on_refusal == "skip"
    given = option(fixed, "sweep.on_refusal")
    folder = search_path.experiments(config_dirs).get(str(option(fixed, "experiment")))
    recipe = read_recipe(folder / "recipe.yaml") if folder else {}
    return bool((given or recipe.get("sweep", {}).get("on_refusal")) == "skip")
