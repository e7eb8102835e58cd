"""The columns of a report's table, as text for the page and as numbers for the CSV file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from dit_lab.report.analysis import Analysis, Comparison
from dit_lab.report.flags import name_seeds
from dit_lab.report.grid import ContrastResult
from dit_lab.report.results import Compute, Configuration
from dit_lab.report.rounding import between, p_value, plus_minus, quantity, rounded

Row = tuple[Configuration, Comparison]

COMPUTE: Mapping[str, Callable[[Compute], float | None]] = {
    "parameters": lambda compute: compute.parameters,
    "training FLOPs": lambda compute: compute.training_flops,
    "training seconds": lambda compute: compute.seconds,
    "images seen": lambda compute: compute.images,
    "NFE": lambda compute: compute.evaluations,
}
CSV_NAMES = {"training seconds": "seconds", "NFE": "evaluations"}  # heading -> CSV heading


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the page's table, and its column or columns in the CSV file."""

    heading: str
    text: Callable[[Row], str]  # "" if there is no value
    exact: Mapping[str, Callable[[Row], str | float | None]]  # CSV heading -> value
    left: bool = False  # aligned left: text, not numbers


def rows(ablation: Analysis) -> list[Row]:
    return list(zip(ablation.configurations, ablation.comparisons, strict=True))


def columns(ablation: Analysis) -> list[Column]:
    """Return the columns that have a value in some row."""
    question = ablation.question
    better = "lower" if question.lower_is_better else "higher"
    every = [
        *(_setting(axis) for axis in ablation.axes),
        _SEEDS,
        Column(
            f"{question.metric} ({better} is better)",
            lambda row: _mean(row[0].sample.mean, row[0].sample.sd, row[0].sample.n),
            {
                "mean": lambda row: row[0].sample.mean if row[0].sample.n else None,
                "sd": lambda row: row[0].sample.sd,
            },
        ),
        *_COMPARISON,
        *(_compute(heading, read) for heading, read in COMPUTE.items()),
        *(_secondary(name) for name in question.secondary),
    ]
    table = rows(ablation)
    return [column for column in every if any(column.text(row) for row in table)]


def _setting(axis: str) -> Column:
    def read(row: Row) -> str:
        return row[0].settings[axis]

    return Column(axis, read, {axis: read}, left=True)


def missing(configuration: Configuration) -> str:
    """Return the missing seeds with the reasons: `seeds 1, 2 FAILED; seed 4 no run`; "" if none."""
    by_reason: dict[str, list[int]] = {}
    for seed, why in configuration.missing.items():
        by_reason.setdefault(why, []).append(seed)
    return "; ".join(f"{name_seeds(seeds)} {why}" for why, seeds in by_reason.items())


def _seeds(row: Row) -> str:
    n, lost = row[0].sample.n, row[0].missing
    return f"{n} of {n + len(lost)}: {missing(row[0])}" if lost else str(n)


def _mean(mean: float, sd: float | None, n: int) -> str:
    return plus_minus(mean, sd) if n else ""


def _difference(row: Row) -> str:
    comparison = row[1]
    if comparison.tested:
        one = comparison.tested
        return between(one.difference, one.low, one.high)
    return "" if comparison.difference is None else rounded(comparison.difference, None)


def _verdict(row: Row) -> str:
    return str(row[1].verdict)


def _tested(read: Callable[[ContrastResult], float]) -> Callable[[Row], float | None]:
    return lambda row: read(row[1].tested) if row[1].tested else None


_detectable = _tested(lambda tested: tested.detectable)

_SEEDS = Column(
    "seeds",
    _seeds,
    {"n": lambda row: row[0].sample.n, "missing_seeds": lambda row: missing(row[0])},
    left=True,
)

_COMPARISON: Sequence[Column] = (
    Column(
        "difference to baseline",
        _difference,
        {
            "difference": lambda row: row[1].difference,
            "low": _tested(lambda tested: tested.low),
            "high": _tested(lambda tested: tested.high),
        },
    ),
    Column(
        "adjusted p",
        lambda row: p_value(row[1].tested.adjusted_p) if row[1].tested else "",
        {"adjusted_p": _tested(lambda tested: tested.adjusted_p)},
    ),
    Column("verdict", _verdict, {"verdict": _verdict}, left=True),
    Column(
        "detectable difference",
        lambda row: _optional(_detectable(row)),
        {"detectable_difference": _detectable},
    ),
    Column(
        "evaluation spread",
        lambda row: _optional(row[0].evaluation_spread),
        {"evaluation_sd": lambda row: row[0].evaluation_spread},
    ),
)


def _optional(spread: float | None) -> str:
    return "" if spread is None else rounded(spread, spread)


def _compute(heading: str, read: Callable[[Compute], float | None]) -> Column:
    def text(row: Row) -> str:
        value = read(row[0].compute)
        return "" if value is None else quantity(value)

    name = CSV_NAMES.get(heading, heading.replace(" ", "_").lower())
    return Column(heading, text, {name: lambda row: read(row[0].compute)})


def _secondary(name: str) -> Column:
    def text(row: Row) -> str:
        sample = row[0].secondary[name]
        return _mean(sample.mean, sample.sd, sample.n)

    return Column(
        name,
        text,
        {
            f"{name} mean": lambda row: row[0].secondary[name].mean,
            f"{name} sd": lambda row: row[0].secondary[name].sd,
        },
    )
