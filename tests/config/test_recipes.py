"""Which options of a recipe apply to group members that it was not written for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dit_lab.config import search_path
from dit_lab.config.axes import asks_for_sweep, recipe_axes, sweep_overrides, values_of
from dit_lab.config.checks.training import check_settings
from dit_lab.config.compose import Composed, Composer
from dit_lab.config.objects import to_tree
from dit_lab.core import trust
from dit_lab.core.errors import RequestError

HEAD = """defaults:
  - override /dataset: digits
  - override /codec: identity
  - override /precision: fp32
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def recipe(folder: Path, text: str, name: str = "mine") -> str:
    """Write a user-defined recipe and return the override that selects it."""
    (folder / f"experiments/{name}").mkdir(parents=True)
    (folder / f"experiments/{name}/recipe.yaml").write_text(HEAD + text)
    return f"experiment={name}"


def composed(*overrides: str, **how: Any) -> tuple[dict[str, Any], list[str]]:
    """Return a config as stored in files, and the parts of a recipe that do not apply."""
    found: Composed = Composer().compose(overrides, **how)
    return to_tree(found.config), list(found.notes)


def test_what_the_chosen_member_has_not_is_dropped_and_said() -> None:
    config, notes = composed("experiment=quickstart", "objective=ddpm")
    assert notes == ["experiment=quickstart sets objective.time_sampling; ddpm has none"]
    assert config["objective"]["_target_"].endswith("DDPM")
    assert config["optimizer"]["lr"] == 0.003  # of another group


def test_what_it_has_reaches_it() -> None:
    config, notes = composed("experiment=lightningdit", "objective=flow_matching", "model=b")
    assert notes == [
        "experiment=lightningdit sets objective.direction_weight; flow_matching has none"
    ]
    assert config["objective"]["time_sampling"] == "logit_normal"
    model = config["model"]
    assert (model["norm"], model["mlp"], model["rope"], model["depth"]) == (
        "rms", "swiglu", True, 12,
    )  # fmt: skip


def test_what_the_files_of_the_chosen_members_set_is_their_own(folder: Path) -> None:
    mine = recipe(folder, "model: {depth: 3, norm: rms, patch_size: 8}\nobjective: {path: vp}\n")
    config, notes = composed(mine, "model=nano", "objective=trigonometric_flow", "patch=1")
    assert notes == [
        f"{mine} sets model.depth, model.patch_size; nano has its own",
        f"{mine} sets objective.path; trigonometric_flow has its own",
    ]
    assert (config["model"]["depth"], config["model"]["norm"]) == (6, "rms")
    assert config["model"]["patch_size"] == 1
    assert config["objective"]["path"] == "trigonometric"
    config, notes = composed(mine, "objective=flow_matching")  # of xl, which the recipe takes
    assert (config["model"]["depth"], config["model"]["patch_size"], notes) == (3, 8, [])
    assert config["objective"]["path"] == "vp"


def test_rates_do_not_transfer_between_optimizers() -> None:
    config, notes = composed("experiment=quickstart", "optimizer._target_=torch.optim.RMSprop")
    assert config["optimizer"]["lr"] == 0.01  # torch's default
    assert notes == [
        "experiment=quickstart sets optimizer.lr; RMSprop keeps its own",
        "experiment=quickstart sets optimizer.betas; RMSprop has none",
    ]
    config, notes = composed(
        "experiment=quickstart", "optimizer._target_=torch.optim.RMSprop", "optimizer.lr=0.5"
    )
    assert config["optimizer"]["lr"] == 0.5
    assert notes == ["experiment=quickstart sets optimizer.betas; RMSprop has none"]


def test_a_value_that_the_chosen_member_does_not_take_is_dropped(folder: Path) -> None:
    mine = recipe(folder, "objective: {prediction: v, zero_terminal_snr: true}\n")
    config, notes = composed(mine, "objective=flow_matching")
    assert config["objective"]["prediction"] == "velocity"
    assert f"{mine} sets objective.zero_terminal_snr; flow_matching has none" in notes
    assert (
        f"{mine} sets objective.prediction; flow_matching takes one of velocity, noise, data, score"
        in notes
    )


def test_what_is_declared_of_one_dataset_is_not_of_another(folder: Path) -> None:
    mine = recipe(folder, "dataset: {num_classes: 10, num_workers: 3}\n")
    assert composed(mine)[0]["dataset"]["num_classes"] == 10
    config, notes = composed(mine, "dataset=mnist")
    assert (config["dataset"]["num_classes"], config["dataset"]["num_workers"]) == (None, 3)
    assert notes == [f"{mine} sets dataset.num_classes; mnist keeps its own"]


def test_a_sampler_that_does_not_fit_gives_way() -> None:
    config, notes = composed("experiment=dit_xl", "objective=rectified_flow")
    assert config["choices"]["sampler"] == "heun"
    assert config["sampler"]["steps"] == 250
    assert notes == ["experiment=dit_xl sets sampler=ddpm; rectified_flow takes heun"]
    with pytest.raises(RequestError, match="sampler=ddpm: does not fit objective=rectified_flow"):
        check_settings(
            Composer()
            .compose(["experiment=dit_xl", "objective=rectified_flow", "sampler=ddpm"])
            .config
        )


def test_a_falling_rate_gives_way_to_schedule_free() -> None:
    config, notes = composed("experiment=quickstart", "optimizer=schedule_free_adamw")
    assert config["choices"]["schedule"] == "constant"
    assert config["schedule"]["warmup_steps"] == 50
    assert "experiment=quickstart sets schedule=cosine; schedule_free_adamw takes constant" in notes
    typed = ["experiment=quickstart", "optimizer=schedule_free_adamw", "schedule=cosine"]
    with pytest.raises(RequestError, match="schedule=cosine: optimizer=schedule_free_adamw"):
        check_settings(Composer().compose(typed).config)


def test_metrics_that_are_not_chosen() -> None:
    config, notes = composed("experiment=dit_xl", "metric=[kid]")
    assert list(config["metric"]) == ["kid"]
    assert notes == [
        "experiment=dit_xl sets metric.precision_recall.extractor; precision_recall is not chosen"
    ]


def test_values_for_one_member() -> None:
    """Values of a recipe or override for a named member; overrides of that member win."""
    given = ["experiment=quickstart", "options.objective.ddpm.learn_sigma=false"]
    assert composed(*given, "objective=ddpm")[0]["objective"]["learn_sigma"] is False
    assert composed(*given)[0]["objective"]["learn_sigma"] is False  # rectified flow's default
    config, _ = composed(*given, "objective=ddpm", "objective.learn_sigma=true")
    assert config["objective"]["learn_sigma"] is True


def test_a_recipes_values_for_one_member_can_be_overridden(folder: Path) -> None:
    mine = recipe(
        folder,
        "objective: {learn_sigma: true, time_sampling: cosmap}\n"
        "options: {objective: {ddpm: {learn_sigma: false}, flow_matching: {path: vp}}}\n",
    )
    config, notes = composed(mine)
    assert config["objective"]["learn_sigma"] is False and len(notes) == 1
    config, notes = composed(mine, "objective=flow_matching")
    assert (config["objective"]["learn_sigma"], config["objective"]["path"]) == (True, "vp")
    assert notes == []
    config, _ = composed(mine, "options.objective.ddpm.learn_sigma=true")
    assert config["objective"]["learn_sigma"] is True
    (folder / "experiments/other").mkdir()
    (folder / "experiments/other/recipe.yaml").write_text(
        "defaults: [/experiment/mine, _self_]\noptions: {objective: {ddpm: {min_snr_gamma: 5}}}\n"
    )
    config, _ = composed("experiment=other")
    assert config["objective"]["min_snr_gamma"] == 5.0
    assert config["objective"]["learn_sigma"] is False


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "objective: {time_samplng: cosmap}",
            r"objective.time_samplng: no such key.*experiment=mine",
        ),
        ("objective: {num_timesteps: 3}", "objective.num_timesteps=3: .*experiment=mine sets it"),
        ("options: {objektive: {}}", "options.objektive: no group of components"),
        ("options: {objective: {dpm: {a: 1}}}", "options.objective.dpm: .*no such choice"),
        ("options: {objective: [ddpm]}", "options.objective: expected options by member"),
    ],
)
def test_mistakes_of_a_recipe_are_its_own(folder: Path, text: str, says: str) -> None:
    mine = recipe(folder, text + "\n")
    with pytest.raises(RequestError, match=says):
        composed(mine)


def test_what_is_typed_is_never_dropped() -> None:
    for typed in ("objective.time_sampling=cosmap", "options.objective.ddpm.path=vp"):
        with pytest.raises(RequestError, match="no such key"):
            composed("experiment=quickstart", "objective=ddpm", typed)


def test_an_own_class_without_the_option(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "ownlab.py").write_text(
        "from dit_lab.objectives.flow import FlowObjective\n"
        "class Flow(FlowObjective):\n"
        "    def __init__(self, *, latent_shape, learn_sigma: bool = False) -> None: ...\n"
    )
    (folder / "conf/objective").mkdir(parents=True)
    (folder / "conf/objective/own.yaml").write_text("_target_: ownlab.Flow\n")
    monkeypatch.syspath_prepend(str(folder))
    trust.trust_modules(["ownlab"])
    config, notes = composed("experiment=lightningdit", "objective=own", "sampler=euler")
    assert set(config["objective"]) == {"_target_", "learn_sigma"}
    assert notes == [
        "experiment=lightningdit sets objective.time_sampling, objective.direction_weight; "
        "own has none"
    ]


def test_what_is_composed_once_is_composed_anew_when_files_change(folder: Path) -> None:
    """With the same overrides: a user-defined recipe, and a user-defined member."""
    mine = recipe(folder, "objective: {time_sampling: cosmap}\n")
    (folder / "conf/sampler").mkdir(parents=True)
    member = folder / "conf/sampler/own.yaml"
    for steps, sampling in ((7, "cosmap"), (8, "logit_normal")):
        text = HEAD + f"objective: {{time_sampling: {sampling}}}\n"
        (folder / "experiments/mine/recipe.yaml").write_text(text)
        member.write_text(f"_target_: dit_lab.samplers.ode.Euler\nsteps: {steps}\n")
        config, _ = composed(mine, "objective=rectified_flow", "sampler=own")
        assert config["objective"]["time_sampling"] == sampling
        assert config["sampler"]["steps"] == steps


# ---- every recipe with every member --------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", search_path.experiments())
def test_every_member_goes_with_a_recipe_or_is_refused_by_its_name(name: str) -> None:
    """The error names an override of the user, never another key.

    For sweeps, the first job is tested.
    """
    composer = Composer()
    for group in search_path.groups():
        for member in [] if group == "experiment" else search_path.choices(group):
            typed = f"{group}=[{member}]" if group == "metric" else f"{group}={member}"
            given = [f"experiment={name}", typed]
            assert asks_for_sweep(given) == bool(recipe_axes(given))
            overrides = [
                f"{one.key_or_group}={values_of(one)[0]}" if one.is_sweep_override()
                else str(one.input_line)
                for one in sweep_overrides(given)
            ]  # fmt: skip
            try:
                check_settings(composer.compose(overrides, recipe_axes=recipe_axes(given)).config)
            except RequestError as refusal:
                said = str(refusal)
                axis = said.partition("=")[0] in {"sampler", "sampler.steps"} and name in (
                    "samplers", "reflow", "few_step", "few_step_distilled", "few_step_fashion",
                )  # fmt: skip
                assert typed in said or f"{group}={member}" in said or axis, said
