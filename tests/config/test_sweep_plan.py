"""From typed axes to jobs: their order, their names, and what is known before they start."""

from __future__ import annotations

from pathlib import Path

import pytest

from dit_lab.lab.config import compose_train
from dit_lab.lab.sweep import take_up
from dit_lab.lab.sweep_axes import asks_for_sweep
from dit_lab.lab.sweep_plan import Plan, plan_sweep, remarks
from dit_lab.types import RequestError

TINY = ["dataset=digits", "codec=identity", "model=pico", "objective=rectified_flow",
        "precision=fp32"]  # fmt: skip
GRID = """hydra:
  mode: MULTIRUN
  sweeper: {params: {model: 'pico,nano', seed: 'range(2)'}}
defaults:
  - override /dataset: digits
  - override /codec: identity
  - override /precision: fp32
sweep: {jobs_per_slot: 2}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def overrides(plan: Plan) -> list[str]:
    return [" ".join(job.overrides) for job in plan.manifest.jobs]


def test_every_combination_the_last_axis_fastest() -> None:
    plan = plan_sweep([*TINY, "seed=0,1", "training.total_steps=range(3,5)", "model=pico"])
    assert overrides(plan) == [
        "seed=0 training.total_steps=3", "seed=0 training.total_steps=4",
        "seed=1 training.total_steps=3", "seed=1 training.total_steps=4",
    ]  # fmt: skip
    assert plan.manifest.axes == {"seed": ["0", "1"], "training.total_steps": ["3", "4"]}
    assert plan.manifest.name == "seed-total_steps"
    assert [config["seed"] for config in plan.configs] == [0, 0, 1, 1]


def test_a_job_is_what_the_command_alone_would_train() -> None:
    """But for the tracker's experiment, which is one for all."""
    plan = plan_sweep([*TINY, "objective=ddpm,rectified_flow"])
    assert overrides(plan) == ["objective=ddpm", "objective=rectified_flow"]  # the last one counts
    for config, objective in zip(plan.configs, ("ddpm", "rectified_flow"), strict=True):
        alone = compose_train([*TINY, f"objective={objective}"])
        alone["tracking"]["experiment"] = "objective"
        assert config == alone


def test_values_with_commas_and_quotes() -> None:
    plan = plan_sweep([*TINY, "ema.decays=[0.9],[0.9,0.99]", "name='a=b','c, d'"])
    assert [config["ema"]["decays"] for config in plan.configs] == [[0.9]] * 2 + [[0.9, 0.99]] * 2
    assert [config["name"] for config in plan.configs] == ["a=b", "c, d"] * 2


def test_the_tracker_has_one_experiment() -> None:
    assert {
        config["tracking"]["experiment"]
        for config in plan_sweep([*TINY, "seed=0,1", "sweep.name=mine"]).configs
    } == {"mine"}
    given = plan_sweep([*TINY, "seed=0,1", "tracking.experiment=ours"])
    assert {config["tracking"]["experiment"] for config in given.configs} == {"ours"}


def test_a_named_sweep(folder: Path) -> None:
    (folder / "experiments/grid").mkdir(parents=True)
    (folder / "experiments/grid/recipe.yaml").write_text(GRID)
    assert asks_for_sweep(["experiment=grid"])
    plan = plan_sweep(["experiment=grid"])
    assert overrides(plan) == [
        "model=pico seed=0", "model=pico seed=1", "model=nano seed=0", "model=nano seed=1",
    ]  # fmt: skip
    assert plan.manifest.name == "grid"
    assert plan.manifest.settings["jobs_per_slot"] == 2
    assert overrides(plan_sweep(["experiment=grid", "seed=7"])) == [
        "model=pico", "model=nano",
    ]  # fmt: skip
    assert not asks_for_sweep(["experiment=grid", "seed=7", "model=pico"])
    assert not asks_for_sweep(["experiment=quickstart", "seed=0,1"])


def test_equal_weights_and_equal_mathematics_are_named() -> None:
    plan = plan_sweep([*TINY, "objective=rectified_flow,flow_matching", "sample.seed=0,1"])
    assert remarks(plan) == [
        "jobs 0 and 1; 2 and 3: the same weights, trained once and measured each",
        "jobs 0, 1, 2 and 3: the same mathematics up to flow_matching's sigma_min; they are "
        "expected to agree",
    ]
    assert len({job.run for job in plan.manifest.jobs}) == 2
    assert remarks(plan_sweep([*TINY, "seed=0,1"])) == []
    far = [*TINY, "objective=flow_matching", "objective.sigma_min=0.0001,0.1"]
    assert remarks(plan_sweep(far)) == []


def test_the_same_jobs_are_the_same_sweep(folder: Path) -> None:
    """However they are run; and another sweep's damage is no reason to refuse this one."""
    (folder / "outputs/sweeps/broken").mkdir(parents=True)
    (folder / "outputs/sweeps/broken/manifest.json").write_text("{}")
    made = take_up(plan_sweep([*TINY, "seed=0,1"]))
    assert take_up(plan_sweep([*TINY, "seed=0,1", "sweep.retries=2"])) == made
    assert take_up(plan_sweep([*TINY, "seed=0,2"])) != made


def test_hashes_do_not_depend_on_how_a_sweep_is_run() -> None:
    one = plan_sweep([*TINY, "seed=0,1"]).manifest.jobs
    other = plan_sweep([*TINY, "seed=0,1", "sweep.retries=3"]).manifest.jobs
    assert [job.config_hash for job in one] == [job.config_hash for job in other]


@pytest.mark.parametrize("key", ["paths.root=a,b", "resume=auto,never", "sweep.retries=1,2"])
def test_what_a_sweep_has_once_is_no_axis(key: str) -> None:
    with pytest.raises(RequestError, match="one for the whole sweep"):
        plan_sweep([*TINY, key])
