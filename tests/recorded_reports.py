"""The reports of recorded experiments, generated from their folders.

    python -m tests.recorded_reports

rewrites `results.md` and `report.png`: metrics are the values of `expected.yaml`, the cost of runs
is in the table of `results.md`. A test fails if a report is out of date.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from dit_lab.config.arms import arms_of
from dit_lab.config.equivalence import SAME_MATHEMATICS
from dit_lab.report.analysis import Analysis, analyse
from dit_lab.report.columns import COMPUTE
from dit_lab.report.drawing import png
from dit_lab.report.markdown import markdown
from dit_lab.report.metrics import is_lower_better
from dit_lab.report.plots import pictures
from dit_lab.report.results import AnalysisRequest, Arm, Compute, Expectation, Result
from dit_lab.report.rounding import PREFIXES
from dit_lab.reproduce.expected import FILE, ONE, is_measured, read_expected
from dit_lab.reproduce.report import RESULTS

EXPERIMENTS = Path(__file__).resolve().parents[1] / "experiments"
SPREAD = "evaluation spread"


def experiments() -> list[Path]:
    """Folders of experiments that were measured here."""
    return [file.parent for file in sorted(EXPERIMENTS.glob(f"*/{FILE}"))
            if is_measured(file.parent)]  # fmt: skip


def report_of(
    folder: Path, *, metric: str | None = None, baseline: Mapping[str, str] | None = None
) -> Analysis:
    """The report of an experiment, or of another metric or beside another baseline."""
    results, shown = results_of(folder)
    chosen = metric or shown[0]
    question = AnalysisRequest(
        metric=chosen,
        lower_is_better=is_lower_better(chosen),
        baseline=baseline,
        secondary=[name for name in shown if name != chosen],
        expected_equal=_expected_equal(results),
        arms={
            name: Arm(stands_on=arm.stands_on, changes=list(arm.overrides))
            for name, arm in arms_of([f"experiment={folder.name}"]).items()
        },
    )
    return analyse(results, question)


def results_of(folder: Path) -> tuple[list[Result], list[str]]:
    """The runs of an experiment, and the metrics that its report shows, the first of them leading.

    Runs of one configuration have their means for what they cost.
    """
    expected, (headings, rows) = read_expected(folder), _table(folder / RESULTS)
    cost = dict(zip(COMPUTE, Compute.__slots__, strict=True))
    results = []
    for (label, metrics), row in zip(expected["measured"].items(), rows, strict=True):
        told = dict(zip(headings, row, strict=True))
        settings = {} if label == ONE else dict(part.partition("=")[::2] for part in label.split())
        deviation = _number(told.get(SPREAD, ""))
        for n, seed in enumerate(expected["recorded"]["seeds"]):
            results.append(
                Result(
                    run=f"{label} seed={seed}",
                    settings=settings,
                    seed=seed,
                    training=f"{expected['recorded']['train_hashes'][label]}-{seed}",
                    status="FINISHED",
                    metrics={name: known["values"][n] for name, known in metrics.items()},
                    deviations={} if deviation is None else {_metrics(headings)[0]: deviation},
                    compute=Compute(
                        **{name: _number(told.get(heading, "")) for heading, name in cost.items()}
                    ),
                )
            )
    return results, _metrics(headings)


def _metrics(headings: Sequence[str]) -> list[str]:
    return [one.partition(" (")[0] for one in headings if one.startswith("eval/")]


def _table(file: Path) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of the table of configurations, the first of a report."""
    lines = file.read_text().split("## Configurations")[1].split("\n\n")[2].splitlines()
    headings, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return headings, rows


def _number(text: str) -> float | None:
    """What `rounding` wrote."""
    if not text:
        return None
    value, _, prefix = text.partition(" ")
    return float(value) * {name: size for size, name in PREFIXES}.get(prefix, 1)


def _expected_equal(results: Sequence[Result]) -> list[Expectation]:
    """The flows that are the same mathematics, which the lab finds by their configurations."""
    members = {tuple(one.settings.items()): one.settings for one in results}
    return [
        Expectation(members=[settings, other], reason=SAME_MATHEMATICS)
        for settings in members.values()
        if settings.get("objective") == "rectified_flow"
        and (other := {**settings, "objective": "flow_matching"}) in members.values()
    ]


def written(folder: Path) -> str:
    """The report as Markdown."""
    return markdown(report_of(folder), title=folder.name)


if __name__ == "__main__":
    for place in experiments():
        (place / RESULTS).write_text(written(place))
        (place / "report.png").write_bytes(png(next(iter(pictures(report_of(place)))).draw))
