"""The commands that `--help` shows: every one is understood, and what they train composes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from dit_lab.cli import main
from dit_lab.config.axes import asks_for_sweep
from dit_lab.config.checks.training import check_settings
from dit_lab.config.compose import compose_train
from dit_lab.core import trust
from dit_lab.reproduce.experiment import find_experiment
from dit_lab.sweeps.plan import plan_sweep

TRAINED = {"train", "describe", "bench"}
"""Verbs whose KEY=VALUE compose a training."""


def commands() -> list[str]:
    """Every command of the help texts, without what is said of it."""
    lines = [
        line.strip()
        for verb in main.VERBS
        for line in (main.module_of(verb).__doc__ or "").splitlines()
    ]
    shown = [re.split(r"  +", line)[0] for line in lines if line.startswith("dit-lab ")]
    return sorted(set(shown))


def test_every_verb_shows_how_it_is_typed() -> None:
    assert {command.split()[1] for command in commands()} == set(main.VERBS)


@pytest.mark.parametrize("command", commands())
def test_a_command_of_a_help_text(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its arguments are understood. What it trains composes and is checked, with its data where
    they are here, and the jobs of a sweep are planned."""
    monkeypatch.chdir(tmp_path)
    _, verb, *words = shlex.split(command.replace("...", ""))
    given = main.parser_of(verb).parse_intermixed_args(trust.taken_from(words))
    if verb == "reproduce":
        assert find_experiment(given.experiment, given.overrides, num_seeds=given.seeds).configs
    elif verb in TRAINED:
        overrides = [text for text in given.overrides if text != "official"]
        if getattr(given, "multirun", False):
            assert len(plan_sweep(overrides).manifest.jobs) > 1
        elif not asks_for_sweep(overrides):
            check_settings(compose_train(overrides))
