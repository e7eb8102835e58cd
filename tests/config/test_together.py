"""Combinations of settings that are valid individually and useless together."""

from __future__ import annotations

from contextlib import suppress

import pytest

from dit_lab.config.checks.together import setting_warnings
from dit_lab.config.compose import compose_train
from dit_lab.config.prepare import prepare
from dit_lab.config.search_path import experiments
from dit_lab.core.errors import RequestError

DIGITS = ["dataset=digits", "codec=identity", "model=pico", "objective=ddpm"]


def said(*overrides: str) -> list[str]:
    prepared = prepare(compose_train([*DIGITS, *overrides]))
    return setting_warnings(prepared.config, prepared.shapes)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (
            ["training.total_steps=1000"],
            "ema.decays=[0.9999] with training.total_steps=1000: 90% of ema-0.9999, which is "
            "sampled, is still the initial weights; use ema.warmup=true or ema.decays=[0.995]",
        ),
        (
            ["training.total_steps=1000", "ema.decays=[0.999,0.9]"],
            "ema.decays=[0.999, 0.9] with training.total_steps=1000: 37% of ema-0.999, which is "
            "sampled, is still the initial weights; use ema.warmup=true or ema.decays=[0.995]",
        ),
        (
            ["training.total_steps=4", "ema.decays=[0.9]"],
            "ema.decays=[0.9] with training.total_steps=4: 66% of ema-0.9, which is sampled, is "
            "still the initial weights; use ema.warmup=true",
        ),
        (
            ["training.total_steps=1000", "ema.warmup=true", "schedule.warmup_steps=1000"],
            "schedule.warmup_steps=1000 with training.total_steps=1000: the learning rate is still "
            "rising at the end; use schedule.warmup_steps=50",
        ),
        (
            ["training.global_batch_size=2048"],
            "training.global_batch_size=2048 with 1437 training images: every batch has images "
            "several times; use training.global_batch_size=1024",
        ),
    ],
)
def test_it_is_said_with_a_value_that_fits(overrides: list[str], says: str) -> None:
    assert said(*overrides) == [says]
    assert said(*overrides, *says.rpartition("; use ")[2].partition(" or ")[0].split()) == []
    for other in says.rpartition("; use ")[2].split(" or ")[1:]:
        assert said(*overrides, other) == []


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["training.total_steps=1000", "ema.warmup=true"],
        ["training.total_steps=1000", "ema.decays=[0.995]", "schedule.warmup_steps=999"],
        ["training.total_steps=1000", "ema.decays=[0.9,0.9999]"],  # of which the first is drawn
        ["training.total_steps=10", "optimizer=schedule_free_adamw", "ema.decays=[]"],
    ],
)
def test_what_goes_together_is_not_doubted(overrides: list[str]) -> None:
    assert said(*overrides) == []


def test_no_recorded_experiment_is_doubted() -> None:
    looked_at = []
    for name in experiments():
        with suppress(RequestError):  # its data are not here
            prepared = prepare(compose_train([f"experiment={name}"]))
            assert setting_warnings(prepared.config, prepared.shapes) == [], name
            looked_at.append(name)
    assert len(looked_at) > 10
