"""The summary of a report, for lists of sweeps and for programs."""

from __future__ import annotations

from dit_lab.report.analysis import Analysis
from dit_lab.report.arm_sentences import new_steps
from dit_lab.report.markdown import markdown_lines, markdown_table
from dit_lab.report.results import Configuration
from dit_lab.report.sentences import answer, judged
from dit_lab.runs.records import Summary


def summary(ablation: Analysis) -> Summary:
    """Return the best configuration with mean and standard deviation, the answer, and the table."""
    best, metric = _best(ablation), ablation.question.metric
    numbers: dict[str, float | None] = {}
    if best is not None:
        numbers[f"best/{metric}"], numbers[f"best_sd/{metric}"] = best.sample.mean, best.sample.sd
        numbers["best/seeds"] = best.sample.n
    return Summary(
        metric=metric,
        best=best.label(ablation.axes) if best else "",
        numbers={name: float(number) for name, number in numbers.items() if number is not None},
        answer=markdown_lines([*answer(ablation), *new_steps(ablation)]),
        table=markdown_table(judged(ablation)).splitlines(),
    )


def _best(ablation: Analysis) -> Configuration | None:
    """Return the configuration with the best mean; None if none was measured."""
    measured = [one for one in ablation.configurations if one.sample.n]
    sign = 1 if ablation.question.lower_is_better else -1
    return min(measured, key=lambda one: sign * one.sample.mean, default=None)
