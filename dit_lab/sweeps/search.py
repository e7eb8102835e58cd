"""Sweeps that search for values: results of the jobs, and the jobs to run next."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from hydra.core.override_parser.types import Override

from dit_lab.config.axes import recipe_axes, space_of, sweep_overrides
from dit_lab.config.objects import to_tree
from dit_lab.config.schema import RunConfig
from dit_lab.core.errors import RequestError
from dit_lab.report.metrics import is_lower_better, leading_metric
from dit_lab.report.runs import measured
from dit_lab.report.selection import runs_of_sweep
from dit_lab.runs.folder import FAILED, FINISHED
from dit_lab.runs.manifest import Job, Manifest, SweepFolder
from dit_lab.sweeps.compose import compose_jobs
from dit_lab.sweeps.plan import job_of
from dit_lab.sweeps.proposals import Trial, propose
from dit_lab.sweeps.slots import make_slots


def next_jobs(folder: SweepFolder, manifest: Manifest) -> list[Job]:
    """Add the jobs to run now to the sweep, and return them.

    There are none if the sweep is a grid, has all its trials, or has tried everything.
    """
    settings = manifest.settings
    if not settings["search"]:
        return []
    _note_values(folder, manifest)
    if not manifest.unmade:
        return []
    places = make_slots(settings["slots"], jobs_per_slot=settings["jobs_per_slot"])
    typed = sweep_overrides(manifest.typed, _config_dirs(manifest))
    proposed = propose(
        space_of(typed),
        [_trial(job, failed_value=settings["failed_value"]) for job in manifest.jobs],
        count=min(manifest.unmade, settings["trials_at_once"] or len(places)),
        minimise=is_lower_better(settings["metric"] or ""),
    )
    if not proposed:
        settings["trials"] = len(manifest.jobs)
    jobs = []
    for values in proposed:
        texts = [f"{key}={text}" for key, text in values.items()]
        (config,) = _composed(typed, [texts], manifest)
        job = job_of(len(manifest.jobs), texts, config)
        folder.add(job, to_tree(config))
        manifest.jobs.append(job)
        jobs.append(job)
    folder.write(manifest)
    return jobs


def _composed(
    typed: Sequence[Override], texts: Iterable[Sequence[str]], manifest: Manifest
) -> list[RunConfig]:
    elsewhere = bool(manifest.settings["launcher"])
    return compose_jobs(
        typed,
        texts,
        _config_dirs(manifest),
        of_recipe=recipe_axes(manifest.typed, _config_dirs(manifest)),
        elsewhere=elsewhere,
    ).configs


def _config_dirs(manifest: Manifest) -> list[Path]:
    return [Path(path) for path in manifest.config_dirs]


def best_job(manifest: Manifest) -> str:
    """Return the job with the best value, in words; "" if no job has a value."""
    valued = [job for job in manifest.jobs if job.value is not None]
    if not manifest.settings["search"] or not valued:
        return ""
    metric = manifest.settings["metric"]
    sign = 1 if is_lower_better(metric) else -1
    best = min(valued, key=lambda job: sign * (job.value or 0.0))
    what = f"job {best.number} ({' '.join(best.overrides)})"
    return f"best of {len(valued)}: {what}, {metric} {best.value:.4g}"


def _trial(job: Job, *, failed_value: float | None) -> Trial:
    values = dict(text.partition("=")[::2] for text in job.overrides)
    return Trial(values, failed_value if job.status == FAILED else job.value)


def _note_values(folder: SweepFolder, manifest: Manifest) -> None:
    """Write the values that the finished jobs have measured into the manifest."""
    settings = manifest.settings
    for job, run in zip(manifest.jobs, runs_of_sweep(folder), strict=True):
        if job.status != FINISHED or job.value is not None:
            continue
        found = measured(run)
        settings["metric"] = settings["metric"] or leading_metric(found)
        if settings["metric"] not in found:
            raise RequestError(
                f"sweep.metric={settings['metric']}: job {job.number} has no such metric; it has "
                f"{', '.join(found)}"
            )
        job.value = found[settings["metric"]]
    folder.write(manifest)
