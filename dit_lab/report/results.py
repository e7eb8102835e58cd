"""The question that a report answers, the records of its runs, and their configurations.

A configuration is one combination of settings; its seeds are repeats.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from dit_lab.core.errors import RequestError
from dit_lab.runs.folder import FINISHED
from dit_lab.statistics.samples import Sample

Settings = Mapping[str, str]

NOT_SET = "-"
"""The value of a setting that a configuration does not have."""

NO_RUN = "no run"
"""The reason for a missing seed that other configurations have."""

ARM = "arm"
"""The axis whose values are named arms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compute:
    """The compute of one run, or the mean of several runs; None if unknown."""

    parameters: float | None = None
    training_flops: float | None = None  # of the whole training
    seconds: float | None = None  # of training
    images: float | None = None  # seen in training
    evaluations: float | None = None  # NFE per generated image


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The record of one run."""

    run: str  # folder or id, for messages
    settings: Settings  # that identify the configuration, without the seed; same keys in all runs
    seed: int
    training: str = ""  # of the weights; equal for runs that share them, "" if unknown
    status: str  # FINISHED, FAILED, KILLED, RUNNING, PENDING, or diverged
    metrics: Mapping[str, float] = field(default_factory=dict)
    deviations: Mapping[str, float] = field(default_factory=dict)  # SD over an evaluation's draws
    compute: Compute | None = None
    code: str = ""  # hashes of the source code, the data and the evaluation; "" if unknown
    data: str = ""
    protocol: str = ""
    curves: Mapping[str, Sequence[tuple[int, float]]] = field(default_factory=dict)  # (step, value)
    grid: Path | None = None  # image of samples, of the same seeds and labels in all runs


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """Configurations that should agree, given by their complete settings, and the reason."""

    members: Sequence[Settings]
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """A named arm: its parent arm (None if it has none) and the overrides that it adds."""

    stands_on: str | None
    changes: Sequence[str]  # overrides such as `optimizer.betas=[0.9,0.99]`

    @property
    def changed(self) -> str:
        return " ".join(self.changes) or "nothing"


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalysisRequest:
    """The question asked of the runs."""

    metric: str
    lower_is_better: bool
    baseline: Settings | None = None  # settings that match one configuration. None: the first
    # configuration, or with named arms the first one whose arm has no parent
    alpha: float = 0.05
    power: float = 0.8
    expected_equal: Sequence[Expectation] = ()
    secondary: Sequence[str] = ()  # metrics that are shown but not tested
    remarks: Sequence[str] = ()  # on how to judge the metric
    arms: Mapping[str, Arm] = field(default_factory=dict)  # by name


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """A configuration with its runs: one row of the report."""

    settings: Settings
    results: tuple[Result, ...]  # all runs, by seed
    measured: tuple[Result, ...]  # finished runs with a finite value of the metric
    missing: Mapping[int, str]  # seed -> why it has no value
    sample: Sample  # of the metric, over training seeds
    evaluation_spread: float | None  # SD over draws of one evaluation, mean of the measured runs
    secondary: Mapping[str, Sample]
    compute: Compute  # means over the measured runs

    def label(self, axes: Iterable[str]) -> str:
        """Return the settings on the given axes as text: `objective=ddpm, model=pico`.

        Settings that the configuration does not have are left out, unless it has none of them.
        """
        every = {axis: self.settings[axis] for axis in axes}
        shown = {axis: value for axis, value in every.items() if value != NOT_SET} or every
        return ", ".join(f"{axis}={value}" for axis, value in shown.items()) or "all runs"


def group(results: Sequence[Result], question: AnalysisRequest) -> tuple[Configuration, ...]:
    """Group runs with equal settings into configurations, in order of appearance.

    Raises:
        RequestError: if there are no runs, if two runs have the same settings and seed, or if no
            finished run has the metric.
    """
    if not results:
        raise RequestError("there is nothing to report: the sweep has no runs")
    columns = tuple(results[0].settings)
    by_settings: dict[tuple[str, ...], dict[int, Result]] = {}
    for result in results:
        assert result.settings.keys() == results[0].settings.keys(), (
            "one report, one set of columns"
        )
        key = tuple(result.settings[column] for column in columns)
        seeds = by_settings.setdefault(key, {})
        if result.seed in seeds:
            raise RequestError(
                f"seed={result.seed}: two runs have this seed and the same settings, "
                f"{seeds[result.seed].run} and {result.run}; leave one of them out"
            )
        seeds[result.seed] = result
    _check_metric(results, question.metric)
    every_seed = sorted({result.seed for result in results})
    return tuple(
        _configuration(dict(zip(columns, key, strict=True)), seeds, every_seed, question)
        for key, seeds in by_settings.items()
    )


def _check_metric(results: Sequence[Result], metric: str) -> None:
    finished = [result for result in results if result.status == FINISHED]
    if not finished:
        counts = Counter(result.status for result in results)
        states = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
        raise RequestError(
            f"no run of the sweep has finished ({states}): there is nothing to report"
        )
    names = sorted({name for result in finished for name in result.metrics})
    if metric not in names:
        near = get_close_matches(metric, names, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        listed = ", ".join(names) or "none"
        raise RequestError(
            f"report.metric={metric}: no finished run has this metric; {hint}measured: {listed}"
        )


def _configuration(
    settings: Settings,
    by_seed: Mapping[int, Result],
    seeds: Sequence[int],
    question: AnalysisRequest,
) -> Configuration:
    runs = {seed: by_seed.get(seed) for seed in seeds}
    missing = {seed: why for seed in seeds if (why := _why_missing(runs[seed], question.metric))}
    measured = [by_seed[seed] for seed in seeds if seed not in missing]
    deviations = [
        run.deviations[question.metric] for run in measured if question.metric in run.deviations
    ]
    return Configuration(
        settings=settings,
        results=tuple(run for run in runs.values() if run is not None),
        measured=tuple(measured),
        missing=missing,
        sample=Sample.of([run.metrics[question.metric] for run in measured]),
        evaluation_spread=mean(deviations),
        secondary={name: _secondary(measured, name) for name in question.secondary},
        compute=_mean_compute(measured),
    )


def _why_missing(run: Result | None, metric: str) -> str:
    """Return why a run has no finite value of the metric; "" if it has one."""
    if run is None:
        return NO_RUN
    if run.status != FINISHED:
        return run.status
    if metric not in run.metrics:
        return "not measured"
    value = run.metrics[metric]
    return "" if math.isfinite(value) else f"measured {value}"


def _secondary(runs: Iterable[Result], name: str) -> Sample:
    values = [run.metrics[name] for run in runs if name in run.metrics]
    return Sample.of([value for value in values if math.isfinite(value)])


def _mean_compute(runs: Sequence[Result]) -> Compute:
    known = [run.compute for run in runs if run.compute is not None]

    def over(values: Iterable[float | None]) -> float | None:
        return mean([value for value in values if value is not None])

    return Compute(
        parameters=over(one.parameters for one in known),
        training_flops=over(one.training_flops for one in known),
        seconds=over(one.seconds for one in known),
        images=over(one.images for one in known),
        evaluations=over(one.evaluations for one in known),
    )


def mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def differing(configurations: Sequence[Configuration]) -> tuple[str, ...]:
    """Return the settings with more than one value."""
    columns = configurations[0].settings
    return tuple(
        column for column in columns if len({c.settings[column] for c in configurations}) > 1
    )


def find_baseline(
    configurations: Sequence[Configuration], question: AnalysisRequest, axes: Sequence[str]
) -> int:
    """Return the index of the baseline.

    Raises:
        RequestError: if the wanted settings match no configuration, or more than one.
    """
    wanted = question.baseline
    if wanted is None:
        roots = [name for name, arm in question.arms.items() if arm.stands_on is None]
        standing_alone = (n for n, c in enumerate(configurations) if c.settings.get(ARM) in roots)
        return next(standing_alone, 0)
    for column, value in wanted.items():
        if column not in configurations[0].settings:
            listed = ", ".join(axes) or "nothing"
            raise RequestError(
                f"report.baseline={column}={value}: not a setting of the sweep; it varies {listed}"
            )
        values = dict.fromkeys(c.settings[column] for c in configurations)
        if value not in values:
            raise RequestError(
                f"report.baseline={column}={value}: no run has this value; {column} is "
                f"{', '.join(values)}"
            )
    found = [
        index
        for index, c in enumerate(configurations)
        if all(c.settings[column] == value for column, value in wanted.items())
    ]
    if len(found) == 1:
        return found[0]
    asked = ",".join(f"{column}={value}" for column, value in wanted.items())
    if not found:
        raise RequestError(f"report.baseline={asked}: no configuration has all of these settings")
    open_axes = [
        axis for axis in axes if len({configurations[n].settings[axis] for n in found}) > 1
    ]
    raise RequestError(
        f"report.baseline={asked}: {len(found)} configurations have these settings; add "
        f"{', '.join(open_axes)} to choose one"
    )
