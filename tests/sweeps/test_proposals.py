"""Proposed values: within their axes, never repeated, the same after an interruption."""

from __future__ import annotations

import math

import pytest

from dit_lab.config.axes import Span, axes_of, corners, space_of, sweep_overrides
from dit_lab.sweeps.proposals import Trial, propose

SPACE = {
    "optimizer.lr": Span(low=1e-4, high=1e-1, log=True),
    "training.clip_norm": Span(low=1 / 3, high=2.0),
    "training.global_batch_size": Span(low=16, high=64, step=16),
    "model": ["pico", "nano"],
}


def distance(values: dict[str, str]) -> float:
    """How far a learning rate is from the best one, in powers of ten."""
    return abs(math.log10(float(values["optimizer.lr"])) + 2.5)


def search(count: int, *, at_once: int, minimise: bool = True) -> list[Trial]:
    trials: list[Trial] = []
    sign = 1 if minimise else -1
    while len(trials) < count:
        for values in propose(SPACE, trials, count=at_once, minimise=minimise):
            trials.append(Trial(values, sign * distance(values)))
    return trials


def test_values_lie_on_their_axes() -> None:
    for trial in search(12, at_once=4):
        assert 1e-4 <= float(trial.values["optimizer.lr"]) <= 1e-1
        assert 1 / 3 <= float(trial.values["training.clip_norm"]) <= 2
        assert trial.values["training.global_batch_size"] in ("16", "32", "48", "64")
        assert trial.values["model"] in ("pico", "nano")


@pytest.mark.parametrize("minimise", [True, False])
def test_what_was_good_is_looked_at_more_closely(minimise: bool) -> None:
    found = [distance(dict(trial.values)) for trial in search(40, at_once=2, minimise=minimise)]
    assert sum(found[20:]) < 0.7 * sum(found[:20])


def test_an_interruption_changes_nothing() -> None:
    trials = search(16, at_once=4)
    again = propose(SPACE, trials[:12], count=4, minimise=True)
    assert again == [trial.values for trial in trials[12:]]


def test_nothing_is_proposed_twice_and_a_space_ends() -> None:
    space = {"model": ["pico", "nano"], "seed": Span(low=0, high=1)}
    trials: list[Trial] = []
    while proposed := propose(space, trials, count=3, minimise=True):
        trials += [Trial(values, None if values["seed"] == "0" else 1.0) for values in proposed]
    assert len(trials) == 4
    assert len({tuple(trial.values.values()) for trial in trials}) == 4


def test_hydras_words_for_axes() -> None:
    typed = sweep_overrides([
        "hydra/sweeper=optuna",
        "optimizer.lr=tag(log,interval(1e-4,1e-1))",
        "training.clip_norm=interval(0.5,2)",
        "training.warm=interval(1,9)",
        "training.global_batch_size=range(16,65,16)",
        "model=pico,nano",
        "patch=2",
    ])  # fmt: skip
    assert space_of(typed) == {
        "optimizer.lr": Span(low=1e-4, high=1e-1, log=True),
        "training.clip_norm": Span(low=0.5, high=2.0),
        "training.warm": Span(low=1, high=9),
        "training.global_batch_size": Span(low=16, high=64, step=16),
        "model": ["pico", "nano"],
    }
    first, last = corners(typed)
    assert first[0] == "optimizer.lr=0.0001"
    assert last[-1] == "model=nano"
    assert axes_of(typed, search=True)["training.global_batch_size"] == ["16", "64"]
