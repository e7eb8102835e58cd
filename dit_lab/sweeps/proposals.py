"""Search of values: Optuna proposes the values of jobs from the results of earlier jobs.

The study is built from the jobs each time. A resumed sweep therefore proposes what it would have
proposed without the interruption, and nothing but the manifest has to be stored.
Sampler: tree-structured Parzen estimator (Bergstra et al., 2011, "Algorithms for Hyper-Parameter
Optimization").
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dit_lab.config.axes import Span, as_text

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

MOST_ASKED = 50  # proposals per new one, after which the space counts as exhausted

Values = Mapping[str, str]


Space = Mapping[str, Span | Sequence[str]]
"""Axis -> its range of numbers, or its values."""


@dataclass(frozen=True, slots=True)
class Trial:
    """The values of a job and its result; None if it has none."""

    values: Values
    result: float | None


def propose(
    space: Space, trials: Sequence[Trial], *, count: int, minimise: bool
) -> list[dict[str, str]]:
    """Return `count` combinations of values that were not tried yet, or fewer if none are left."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(seed=len(trials), constant_liar=True)
    study = optuna.create_study(direction="minimize" if minimise else "maximize", sampler=sampler)
    distributions = {key: _distribution(axis) for key, axis in space.items()}
    for trial in trials:
        study.add_trial(_frozen(trial, distributions))
    known = [dict(trial.values) for trial in trials]
    found: list[dict[str, str]] = []
    for _ in range(MOST_ASKED * count):
        asked = study.ask(distributions)
        values = {key: _rounded(asked.params[key], space[key]) for key in space}
        if values in known:  # has a result, or will have one when its job ends
            study.tell(asked, state=optuna.trial.TrialState.FAIL)
            continue
        known.append(values)
        found.append(values)
        if len(found) == count:
            break
    return found


def _distribution(axis: Span | Sequence[str]) -> BaseDistribution:
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    if not isinstance(axis, Span):
        return CategoricalDistribution(list(axis))
    if isinstance(axis.low, int) and isinstance(axis.high, int):
        return IntDistribution(axis.low, axis.high, log=axis.log, step=int(axis.step or 1))
    return FloatDistribution(axis.low, axis.high, log=axis.log, step=axis.step)


def _frozen(trial: Trial, distributions: Mapping[str, BaseDistribution]) -> FrozenTrial:
    from optuna.distributions import FloatDistribution, IntDistribution
    from optuna.trial import TrialState, create_trial

    def read(key: str) -> Any:
        kinds = {FloatDistribution: float, IntDistribution: int}
        return kinds.get(type(distributions[key]), str)(trial.values[key])

    return create_trial(
        state=TrialState.FAIL if trial.result is None else TrialState.COMPLETE,
        value=trial.result,
        params={key: read(key) for key in distributions},
        distributions=dict(distributions),
    )


def _rounded(value: float | str, axis: Span | Sequence[str]) -> str:
    """Return a number with six digits, or with all if rounding leaves the axis."""
    if isinstance(axis, Span) and isinstance(value, float) and axis.step is None:
        short = float(f"{value:.6g}")
        return as_text(short if axis.low <= short <= axis.high else value)
    return as_text(value)
