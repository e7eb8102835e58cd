"""From sweep axes to jobs: order, names, and checks before they start."""

from __future__ import annotations

from pathlib import Path

import pytest

from dit_lab.config.axes import asks_for_sweep
from dit_lab.config.compose import compose_train
from dit_lab.core.errors import RequestError
from dit_lab.sweeps.plan import Plan, plan_sweep
from dit_lab.sweeps.remarks import remarks
from dit_lab.sweeps.run import find_or_create_sweep

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
    assert [config.seed for config in plan.configs] == [0, 0, 1, 1]


def test_a_job_is_what_the_command_alone_would_train() -> None:
    """But for the tracker's experiment, which is one for all."""
    plan = plan_sweep([*TINY, "objective=ddpm,rectified_flow"])
    assert overrides(plan) == ["objective=ddpm", "objective=rectified_flow"]  # the last one counts
    for config, objective in zip(plan.configs, ("ddpm", "rectified_flow"), strict=True):
        alone = compose_train([*TINY, f"objective={objective}"])
        alone.tracking.experiment = "objective"
        assert config == alone


def test_values_with_commas_and_quotes() -> None:
    plan = plan_sweep([*TINY, "ema.decays=[0.9],[0.9,0.99]", "name='a b','c @d'"])
    assert [config.ema.decays for config in plan.configs] == [[0.9]] * 2 + [[0.9, 0.99]] * 2
    assert [config.name for config in plan.configs] == ["a b", "c @d"] * 2


def test_the_tracker_has_one_experiment() -> None:
    assert {
        config.tracking.experiment
        for config in plan_sweep([*TINY, "seed=0,1", "sweep.name=mine"]).configs
    } == {"mine"}
    given = plan_sweep([*TINY, "seed=0,1", "tracking.experiment=ours"])
    assert {config.tracking.experiment for config in given.configs} == {"ours"}


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
    assert overrides(plan_sweep(["experiment=grid", "~model"])) == ["seed=0", "seed=1"]
    assert not asks_for_sweep(["experiment=grid", "seed=7", "model=pico"])
    assert not asks_for_sweep(["experiment=grid", "~seed", "model=pico"])
    assert not asks_for_sweep(["experiment=quickstart", "seed=0,1"])


def few(configurations: int, seeds: str) -> str:
    """Of which nothing is claimed."""
    return (
        f"{configurations} configurations with {seeds} each: the report will not compare them; a "
        "comparison needs 3 seeds, such as seed=0,1,2"
    )


def test_equal_weights_and_equal_mathematics_are_named() -> None:
    plan = plan_sweep([*TINY, "objective=rectified_flow,flow_matching", "sample.seed=0,1"])
    assert remarks(plan) == [
        "jobs 0 and 1; 2 and 3: the same weights, trained once and evaluated for each job",
        "jobs 0 to 3: the same mathematics up to flow_matching's sigma_min; they are expected to "
        "agree",
        few(2, "1 seed"),
    ]
    assert len({job.run for job in plan.manifest.jobs}) == 2
    assert remarks(plan_sweep([*TINY, "seed=0,1"])) == []
    far = [*TINY, "objective=flow_matching", "objective.sigma_min=0.0001,0.1", "seed=0,1,2"]
    assert remarks(plan_sweep(far)) == []


def test_jobs_in_a_row_are_named_by_the_first_and_the_last() -> None:
    """Three or more; others one by one."""
    eight, two = (plan_sweep([*TINY, f"sample.seed=range({n})"]) for n in (8, 2))
    same = "the same weights, trained once and evaluated for each job"
    assert remarks(eight) == [f"jobs 0 to 7: {same}"]
    assert remarks(two) == [f"jobs 0 and 1: {same}"]
    apart = plan_sweep([*TINY, "sample.seed=range(3)", "optimizer.lr=0.001,0.002"])
    assert remarks(apart) == [f"jobs 0, 2 and 4; 1, 3 and 5: {same}", few(2, "1 seed")]


def test_what_will_not_be_compared_is_said_before() -> None:
    unmeasured = [*TINY, "seed=0,1,2", "evaluation.num_images=0"]
    assert remarks(plan_sweep([*unmeasured, "objective=ddpm,rectified_flow"])) == [
        "losses of ddpm, rectified_flow are different quantities, and samples are not measured: "
        "nothing will be compared; give evaluation.num_images=N"
    ]
    assert remarks(plan_sweep([*unmeasured, "optimizer.lr=0.001,0.002"])) == []


def test_too_few_images_to_measure_are_said_before() -> None:
    (said,) = remarks(plan_sweep([*TINY, "seed=0,1,2", "evaluation.num_images=29"]))
    assert said.startswith("jobs 0 to 2: samples are not measured: evaluation.num_images=29: with ")
    assert "30 generated, 30 training and 10 held-out images are the least" in said


def test_settings_that_are_useless_together_are_said_with_their_jobs() -> None:
    plan = plan_sweep([*TINY, "seed=0,1,2", "training.total_steps=40,40000"])
    assert remarks(plan) == [
        "jobs 0, 2 and 4: ema.decays=[0.9999] with training.total_steps=40: 100% of ema-0.9999, "
        "which is sampled, is still the initial weights; use ema.warmup=true or ema.decays=[0.9]"
    ]


MISFITS = [*TINY, "objective=ddpm,rectified_flow", "sampler=heun,ddpm", "seed=0,1"]
WHY = "sampler=ddpm: does not fit objective=rectified_flow; allowed: auto"


def test_jobs_that_are_refused_are_left_out_where_that_is_asked() -> None:
    """They alone, with the reason and how many; the rest is what it is without them."""
    plan = plan_sweep([*MISFITS, "sweep.on_refusal=skip"])
    fitting = [("ddpm", "heun"), ("ddpm", "ddpm"), ("rectified_flow", "heun")]
    assert overrides(plan) == [
        f"objective={objective} sampler={sampler} seed={seed}"
        for objective, sampler in fitting
        for seed in (0, 1)
    ]
    assert [job.number for job in plan.manifest.jobs] == list(range(6))
    assert len(plan.configs) == len(plan.shapes) == 6
    ((why, count),) = plan.left_out.items()
    assert (why.startswith(WHY), count) == (True, 2)
    assert remarks(plan) == [
        f"left out 2 jobs: {why}",
        "jobs 0 and 2; 1 and 3: the same weights, trained once and evaluated for each job",
        few(3, "2 seeds"),
    ]
    assert plan.manifest.axes["sampler"] == ["heun", "ddpm"]  # as it was asked


def test_every_reason_is_counted_by_itself() -> None:
    typed = [*TINY, "sampler=heun,ddpm", "model.hidden_size=64,66", "sweep.on_refusal=skip"]
    plan = plan_sweep(typed)
    assert overrides(plan) == ["sampler=heun model.hidden_size=64"]
    width = "model.hidden_size=66: the position embedding needs a multiple of 4; use 68"
    first, second = remarks(plan)
    assert first == f"left out 2 jobs: {width}"
    assert second.startswith(f"left out 1 job: {WHY}")


@pytest.mark.parametrize("more", [[], ["sweep.on_refusal=stop"]])
def test_one_refused_job_stops_the_sweep_otherwise(more: list[str]) -> None:
    with pytest.raises(RequestError, match=WHY):
        plan_sweep([*MISFITS, *more])


def test_nothing_is_left_out_where_all_fit() -> None:
    plan = plan_sweep([*TINY, "seed=0,1", "sweep.on_refusal=skip"])
    assert (plan.left_out, remarks(plan)) == ({}, [])


def test_a_key_that_not_every_member_has_leaves_out_those_without_it() -> None:
    """dopri5 has tolerances, heun has not, nor has the sampler that is there without an axis."""
    plan = plan_sweep([*TINY, "sampler=dopri5,heun", "sampler.rtol=1e-4", "sweep.on_refusal=skip"])
    assert overrides(plan) == ["sampler=dopri5"]
    assert sum(plan.left_out.values()) == 1


def test_the_same_jobs_are_the_same_sweep(folder: Path) -> None:
    """However they are run; and another sweep's damage is no reason to refuse this one."""
    (folder / "outputs/sweeps/broken").mkdir(parents=True)
    (folder / "outputs/sweeps/broken/manifest.json").write_text("{}")
    made = find_or_create_sweep(plan_sweep([*TINY, "seed=0,1"]))
    assert find_or_create_sweep(plan_sweep([*TINY, "seed=0,1", "sweep.retries=2"])) == made
    assert find_or_create_sweep(plan_sweep([*TINY, "seed=0,2"])) != made


def test_hashes_do_not_depend_on_how_a_sweep_is_run() -> None:
    one = plan_sweep([*TINY, "seed=0,1"]).manifest.jobs
    other = plan_sweep([*TINY, "seed=0,1", "sweep.retries=3"]).manifest.jobs
    assert [job.config_hash for job in one] == [job.config_hash for job in other]


@pytest.mark.parametrize("key", ["paths.root=a,b", "resume=auto,never", "sweep.retries=1,2"])
def test_what_a_sweep_has_once_is_no_axis(key: str) -> None:
    with pytest.raises(RequestError, match="is set once for the whole sweep"):
        plan_sweep([*TINY, key])


# ---- options that some members do not have -------------------------------------------------------


def test_jobs_leave_out_options_that_their_members_do_not_have() -> None:
    given = [
        *TINY,
        "objective=ddpm,rectified_flow",
        "objective.beta_schedule=linear,cosine",
        "seed=0,1",
    ]
    with pytest.raises(RequestError, match=r"objective\.beta_schedule: no such key"):
        plan_sweep(given)
    plan = plan_sweep([*given, "sweep.on_refusal=drop_option"])
    assert overrides(plan) == [
        "objective=ddpm objective.beta_schedule=linear seed=0",
        "objective=ddpm objective.beta_schedule=linear seed=1",
        "objective=ddpm objective.beta_schedule=cosine seed=0",
        "objective=ddpm objective.beta_schedule=cosine seed=1",
        "objective=rectified_flow seed=0",
        "objective=rectified_flow seed=1",
    ]
    assert remarks(plan)[0] == "objective.beta_schedule: rectified_flow has none"
    with pytest.raises(RequestError, match=r"objective\.beta_shedule: no such key; did you mean"):
        plan_sweep(
            [*TINY, "objective=ddpm,rectified_flow", "objective.beta_shedule=linear,cosine",
             "sweep.on_refusal=drop_option"]
        )  # fmt: skip


def test_a_recipes_axis_gives_way_to_a_member_without_it(folder: Path) -> None:
    (folder / "experiments/grid").mkdir(parents=True)
    axes = "{objective.time_sampling: 'uniform,cosmap', seed: '0,1'}"
    (folder / "experiments/grid/recipe.yaml").write_text(
        GRID.replace("{model: 'pico,nano', seed: 'range(2)'}", axes)
    )
    plan = plan_sweep(["experiment=grid", "objective=ddpm"])
    assert overrides(plan) == ["seed=0", "seed=1"]
    assert plan.manifest.axes == {"seed": ["0", "1"]}
    assert remarks(plan) == ["experiment=grid sets objective.time_sampling; ddpm has none"]
    plan = plan_sweep(["experiment=grid", "objective=ddpm,rectified_flow"])
    assert overrides(plan) == [
        "objective=ddpm seed=0",
        "objective=ddpm seed=1",
        "objective=rectified_flow objective.time_sampling=uniform seed=0",
        "objective=rectified_flow objective.time_sampling=uniform seed=1",
        "objective=rectified_flow objective.time_sampling=cosmap seed=0",
        "objective=rectified_flow objective.time_sampling=cosmap seed=1",
    ]


def test_arms_are_an_axis() -> None:
    arms = ["arms.base=", "arms.cosmap=objective.time_sampling=cosmap"]
    plan = plan_sweep([*TINY, *arms, "arm=base,cosmap", "seed=0,1"])
    assert overrides(plan) == [
        "arm=base seed=0", "arm=base seed=1", "arm=cosmap seed=0", "arm=cosmap seed=1",
    ]  # fmt: skip
    assert plan.manifest.arms == {
        "base": {"from": None, "overrides": []},
        "cosmap": {"from": "base", "overrides": ["objective.time_sampling=cosmap"]},
    }
    searched = plan_sweep([*TINY, *arms, "arm=base,cosmap", "hydra/sweeper=optuna"])
    assert searched.manifest.axes == {"arm": ["base", "cosmap"]}
    alone = plan_sweep([*TINY, "objective.time_sampling=uniform,cosmap", "seed=0,1"])
    assert [job.run for job in plan.manifest.jobs] == [job.run for job in alone.manifest.jobs]
