"""Reports over a sweep or any runs: their question, their answer and their files."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from dit_lab.config.equivalence import SAME_MATHEMATICS, equivalence_hash
from dit_lab.core.text import counted
from dit_lab.report.analysis import Analysis, analyse
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
from dit_lab.report.results import AnalysisRequest, Arm, Expectation, Result
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
"""Secondary metrics: of each line, the first that was measured is shown."""


def report_on(
    runs: Sequence[Run],
    folder: Path,
    *,
    title: str,
    metric: str | None = None,
    baseline: Mapping[str, str] | None = None,
    arms: Mapping[str, Arm] | None = None,
) -> tuple[Analysis, list[Path]]:
    """Analyse runs, and write the report into `folder`.

    Returns:
        The answer, and the files of the report.

    Raises:
        RequestError: if the runs do not have the metric or the baseline.
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
) -> tuple[Analysis, list[Path], str]:
    """Analyse a sweep, and write the report into its folder and to its MLflow run.

    Returns:
        The answer, the files of the report, and why MLflow could not be updated ("" if it was).
    """
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
) -> AnalysisRequest:
    names = dict.fromkeys(name for result in found for name in result.metrics)
    chosen = metric or leading_metric(names)
    objectives = [loss_of_run(run.config, run.settings) for run in runs]
    refuse_incomparable(chosen, objectives, key="report.metric")
    beside = [smallest_draw(names, starts) for starts in BESIDE]
    of_the_samples_weights = not any("sample.weights" in run.settings for run in runs)
    if len(set(objectives)) == 1 and of_the_samples_weights and LOSS in names:
        beside.append(LOSS)
    return AnalysisRequest(
        metric=chosen,
        lower_is_better=is_lower_better(chosen),
        baseline=baseline,
        expected_equal=_expected_equal(runs),
        secondary=[name for name in beside if name and name != chosen],
        remarks=[*_samplers(runs), *_caveats(runs, chosen)],
    )


def _expected_equal(runs: Sequence[Run]) -> list[Expectation]:
    """Return configurations with the same mathematics whose weights were trained separately."""
    trained: dict[tuple[tuple[str, str], ...], set[RunFolder]] = defaultdict(set)
    ideas: dict[tuple[tuple[str, str], ...], str] = {}
    for run in runs:
        settings = tuple(configuration(run).items())
        trained[settings].add(run.folder)
        if settings not in ideas:
            ideas[settings] = equivalence_hash({**run.config, "seed": 0})
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
    """Return a remark if configurations used different samplers and no axis shows it."""
    if any(key.partition(".")[0] == "sampler" for run in runs for key in run.settings):
        return []
    ways: dict[str, set[str]] = defaultdict(set)
    for run in runs:
        if run.evaluation is not None:
            sampler, chosen = run.config["sampler"], run.config["choices"]
            steps = f" with {counted(sampler['steps'], 'step')}" if "steps" in sampler else ""
            nfe = run.evaluation.card.evaluations_per_image
            ways[f"{chosen['sampler']}{steps} (NFE {nfe:g})"].add(chosen["objective"])
    if len(ways) < 2:
        return []
    said = "; ".join(f"{', '.join(sorted(of))} by {way}" for way, of in ways.items())
    return [f"objectives are sampled with different samplers: {said}"]


def _caveats(runs: Sequence[Run], metric: str) -> list[str]:
    """Return remarks on runs for which the metric does not count, with the reasons."""
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
