"""Train hashes stay the same when the package grows.

The literal hashes are those of the version of 2026-11-29, before modules were moved.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dit_lab.config import components
from dit_lab.config.compose import compose_train
from dit_lab.config.identity import as_hashed, config_hash, train_hash
from dit_lab.config.objects import to_component, to_tree
from dit_lab.core.options import option
from dit_lab.reproduce.expected import read_expected
from dit_lab.reproduce.experiment import find_experiment
from dit_lab.runs.former_names import FIRST, with_names_of_today
from dit_lab.samplers.options import FixedStep

HASHES = {
    "experiment=dit": "c3974271769f",
    "experiment=dit_xl": "032b5ed66ae5",
    "experiment=ema_decays": "88ea9869c428",
    "experiment=fashion_mnist": "63f025d62305",
    "experiment=fashion_mnist_s": "dbd79f194c97",
    "experiment=lightningdit": "af103c2656c5",
    "experiment=objectives": "9e70b86fad38",
    "experiment=own_images dataset.exif=ignore dataset.transparency=drop": "cb5f9bf1d3af",
    "experiment=quickstart": "a0aadb33c25e",
    "experiment=samplers": "a8f385c59d41",
    "experiment=scaling": "bfe33638c693",
    "experiment=sit": "5ce023edfad3",
    "model=b objective=flow_matching objective.path=vp": "790c68101817",
    "model=l objective=rectified_flow coupling=optimal_transport": "d24098049618",
    "model=xl patch=4 schedule=cosine precision=fp32": "0c4f9f76e51e",
}


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("typed", HASHES)
def test_recipes_keep_their_hashes(typed: str) -> None:
    assert train_hash(compose_train(typed.split(" "))) == HASHES[typed]


@pytest.mark.parametrize(
    "name", ["quickstart", "objectives", "patches", "times", "ema_decays", "guidance_grid"]
)
def test_recorded_experiments_keep_their_hashes(name: str) -> None:
    experiment = find_experiment(name, [], num_seeds=1)
    assert experiment.train_hashes() == read_expected(experiment.folder)["recorded"]["train_hashes"]


@dataclass
class Grown(FixedStep):
    """Heun's options, as a later version of the package may have them."""

    extrapolate: bool = option(False, later=True)


def test_an_option_added_later_counts_only_where_it_changes_something(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Sweeps still recognise their jobs, too."""
    before = compose_train(["experiment=quickstart"])
    monkeypatch.setitem(components.COMPONENTS["sampler"], "dit_lab.samplers.ode.Heun", Grown)

    def grown(**options: Any) -> Any:
        tree = {**to_tree(before)["sampler"], **options}
        return dataclasses.replace(before, sampler=to_component("sampler", tree))

    assert grown().sampler.extrapolate is False
    assert config_hash(grown()) == config_hash(before)
    assert "extrapolate" not in as_hashed(to_tree(grown()))["sampler"]
    assert config_hash(grown(extrapolate=True)) != config_hash(before)


def test_components_that_moved_are_hashed_by_their_first_names() -> None:
    tree = to_tree(compose_train(["experiment=quickstart"]))
    now = {options["_target_"] for options in tree["metric"].values()}
    hashed = as_hashed(tree)["metric"]
    assert now <= FIRST.keys()
    assert {options["_target_"] for options in hashed.values()} == {FIRST[name] for name in now}
    assert with_names_of_today({"metric": hashed})["metric"] == tree["metric"]
