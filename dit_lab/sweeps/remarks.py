"""Remarks on a sweep before its first job starts. Torch-free."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator

from dit_lab.config.axes import settings_of
from dit_lab.config.checks.metrics import why_unmeasured
from dit_lab.config.checks.together import setting_warnings
from dit_lab.config.equivalence import SAME_MATHEMATICS, equivalence_hash
from dit_lab.config.identity import run_folder
from dit_lab.config.objects import to_tree
from dit_lab.config.schema import RunConfig
from dit_lab.core.text import counted
from dit_lab.report.grid import MIN_SEEDS
from dit_lab.report.metrics import loss_of_run
from dit_lab.report.runs import without_seeds
from dit_lab.runs.manifest import Job, names_of
from dit_lab.sweeps.plan import Plan


def remarks(plan: Plan) -> list[str]:
    """Return the remarks on a plan.

    They name options that do not apply, likely mistakes, refused jobs, jobs that share a training,
    jobs that are expected to agree, and why the report will compare nothing.
    """
    if plan.manifest.settings["search"]:
        return plan.notes
    refused = [f"left out {counted(n, 'job')}: {why}" for why, n in plan.left_out.items()]
    return [*plan.notes, *refused, *_doubts(plan), *_alike(plan), *_incomparable(plan)]


def _doubts(plan: Plan) -> list[str]:
    """Return warnings about settings that are likely mistakes, with their jobs."""
    found: dict[str, list[Job]] = defaultdict(list)
    for job, config, shapes in zip(plan.manifest.jobs, plan.configs, plan.shapes, strict=True):
        for line in setting_warnings(config, shapes):
            found[line].append(job)
        if config.evaluation.num_images and (why := why_unmeasured(config, shapes)):
            found[f"samples are not measured: {why}"].append(job)
    return [f"{names_of(jobs)}: {line}" for line, jobs in found.items()]


def _alike(plan: Plan) -> list[str]:
    """Return which jobs share a training, and which are expected to agree."""
    once = _groups(plan, lambda config: run_folder(config).root)
    agreeing = [
        group
        for group in _groups(plan, lambda config: equivalence_hash(to_tree(config)))
        if len({job.run for job in group}) > 1
    ]
    said = {
        "the same weights, trained once and evaluated for each job": once,
        f"{SAME_MATHEMATICS}; they are expected to agree": agreeing,
    }
    return [
        f"jobs {'; '.join(names_of(group).removeprefix('jobs ') for group in groups)}: {what}"
        for what, groups in said.items()
        if groups
    ]


def _groups(plan: Plan, key: Callable[[RunConfig], object]) -> list[list[Job]]:
    groups: dict[str, list[Job]] = defaultdict(list)
    for job, config in zip(plan.manifest.jobs, plan.configs, strict=True):
        groups[str(key(config))].append(job)
    return [group for group in groups.values() if len(group) > 1]


def _incomparable(plan: Plan) -> Iterator[str]:
    """Yield the reasons why a report cannot compare the configurations."""
    seeds: dict[str, set[int]] = defaultdict(set)
    for job, config in zip(plan.manifest.jobs, plan.configs, strict=True):
        seeds[str(without_seeds(settings_of(job.overrides)))].add(config.seed)
    most = max(map(len, seeds.values()), default=0)
    if len(seeds) > 1 and most < MIN_SEEDS:
        enough = ",".join(map(str, range(MIN_SEEDS)))
        yield (
            f"{len(seeds)} configurations with {counted(most, 'seed')} each: the report will not "
            f"compare them; a comparison needs {MIN_SEEDS} seeds, such as seed={enough}"
        )
    jobs = zip(plan.manifest.jobs, plan.configs, strict=True)
    losses = {loss_of_run(to_tree(config), settings_of(job.overrides)) for job, config in jobs}
    if len(losses) > 1 and not any(config.evaluation.num_images for config in plan.configs):
        yield (
            f"losses of {', '.join(sorted(losses))} are different quantities, and samples are not "
            "measured: nothing will be compared; give evaluation.num_images=N"
        )
