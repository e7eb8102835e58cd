"""A report over a sweep or any runs: what is asked of them, the answer, and where it is kept."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from dit_lab.config.equivalence import SAME_MATHEMATICS, idea
from dit_lab.core.text import counted, evaluations
from dit_lab.report.analysis import Ablation, analyse
from dit_lab.report.arms import arms_of
from dit_lab.report.files import write_report
from dit_lab.report.metrics import (
    LOSS,
    is_lower_better,
    leading_metric,
    loss_of_run,
    refuse_incomparable,
    smallest_draw,
)
from dit_lab.report.results import Arm, Expectation, Question, Result
from dit_lab.report.runs import Run, configuration, results
from dit_lab.report.selection import runs_of_sweep
from dit_lab.runs.folder import RunFolder
from dit_lab.runs.manifest import SweepFolder
from dit_lab.tracking.parent import log_report

BESIDE = (
    ("eval/recall_pixels_held_out", "eval/recall_classifier_held_out"),
    ("eval/distance_ratio_pixels", "eval/distance_ratio_classifier"),
    ("eval/class_accuracy_classifier",),
)
"""What else is shown: of each, the first that was measured."""


def report_on(
    runs: Sequence[Run],
    folder: Path,
    *,
    title: str,
    metric: str | None = None,
    baseline: Mapping[str, str] | None = None,
    arms: Mapping[str, Arm] | None = None,
) -> tuple[Ablation, list[Path]]:
    """Analyse the runs and write the report into `folder`; the answer and the files.

    Raises RequestError for a metric or a baseline that they do not have.
    """
    found = results(runs)
    asked = _question(runs, found, metric=metric, baseline=baseline)
    ablation = analyse(found, replace(asked, arms=arms or {}))
    return ablation, write_report(ablation, folder, title=title)


def report_on_sweep(
    folder: SweepFolder,
    *,
    metric: str | None = None,
    baseline: Mapping[str, str] | None = None,
) -> tuple[Ablation, list[Path], str]:
    """The same for a sweep, kept in its folder and with its run in the tracker; the last is ""
    or why the tracker did not take it."""
    manifest = folder.read()
    ablation, files = report_on(
        runs_of_sweep(folder),
        folder.report,
        title=manifest.name,
        metric=metric,
        baseline=baseline,
        arms=arms_of([(manifest.name, manifest)]),
    )
    trouble = ""
    if manifest.parent_run_id is not None:
        trouble = log_report(manifest.tracking["uri"], manifest.parent_run_id, files=files)
    return ablation, files, trouble


def _question(
    runs: Sequence[Run],
    found: Sequence[Result],
    *,
    metric: str | None,
    baseline: Mapping[str, str] | None,
) -> Question:
    names = dict.fromkeys(name for result in found for name in result.metrics)
    chosen = metric or leading_metric(names)
    objectives = [loss_of_run(run.config, run.settings) for run in runs]
    refuse_incomparable(chosen, objectives, key="report.metric")
    beside = [smallest_draw(names, starts) for starts in BESIDE]
    of_the_samples_weights = not any("sample.weights" in run.settings for run in runs)
    if len(set(objectives)) == 1 and of_the_samples_weights and LOSS in names:
        beside.append(LOSS)
    return Question(
        metric=chosen,
        lower_is_better=is_lower_better(chosen),
        baseline=baseline,
        expected_equal=_expected_equal(runs),
        secondary=[name for name in beside if name and name != chosen],
        remarks=[*_samplers(runs), *_caveats(runs, chosen)],
    )


def _expected_equal(runs: Sequence[Run]) -> list[Expectation]:
    """Configurations whose mathematics is the same, though their weights are trained apart."""
    trained: dict[tuple[tuple[str, str], ...], set[RunFolder]] = defaultdict(set)
    ideas: dict[tuple[tuple[str, str], ...], str] = {}
    for run in runs:
        settings = tuple(configuration(run).items())
        trained[settings].add(run.folder)
        if settings not in ideas:
            ideas[settings] = idea({**run.config, "seed": 0})
    alike: dict[str, dict[tuple[tuple[str, str], ...], set[RunFolder]]] = defaultdict(dict)
    for settings, of_them in ideas.items():
        alike[of_them][settings] = trained[settings]
    return [
        Expectation(
            members=[dict(settings) for settings in members],
            reason=SAME_MATHEMATICS,
        )
        for members in alike.values()
        if len(members) > 1 and not set.intersection(*members.values())
    ]


def _samplers(runs: Sequence[Run]) -> list[str]:
    """Say so where configurations were sampled in different ways without an axis that says it."""
    if any(key.partition(".")[0] == "sampler" for run in runs for key in run.settings):
        return []
    ways: dict[str, set[str]] = defaultdict(set)
    for run in runs:
        if run.evaluation is not None:
            sampler, chosen = run.config["sampler"], run.config["choices"]
            steps = f" with {counted(sampler['steps'], 'step')}" if "steps" in sampler else ""
            cost = f"{evaluations(run.evaluation.card.evaluations_per_image)} an image"
            ways[f"{chosen['sampler']}{steps} ({cost})"].add(chosen["objective"])
    if len(ways) < 2:
        return []
    said = "; ".join(f"{', '.join(sorted(of))} by {way}" for way, of in ways.items())
    return [f"samples are drawn by each objective's own sampler: {said}"]


def _caveats(runs: Sequence[Run], metric: str) -> list[str]:
    """Say so where a number looks good although the samples are not."""
    why: dict[str, list[str]] = defaultdict(list)
    for run in runs:
        for row in run.evaluation.rows if run.evaluation else ():
            if row.key == metric and row.caveat:
                why[row.caveat].append(run.name)
    return [
        f"{metric} does not count in {len(names)} of {len(runs)} runs, because {caveat} "
        f"({', '.join(names[:5])}{' ...' if len(names) > 5 else ''})"
        for caveat, names in why.items()
    ]
