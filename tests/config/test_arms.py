"""Named arms: their overrides and bases; composed configs do not contain them."""

from __future__ import annotations

from pathlib import Path

import pytest

from dit_lab.config.arms import Arm, arms_of, lineage, with_arm
from dit_lab.config.compose import Composer, compose_train
from dit_lab.config.identity import config_hash
from dit_lab.core.errors import RequestError

LADDER = """defaults:
  - override /dataset: digits
  - override /codec: identity
  - override /precision: fp32
  - override /objective: rectified_flow
  - override /model: pico
arms:
  base: []
  logit_normal: [objective.time_sampling=logit_normal]
  beta2: {from: logit_normal, overrides: ["optimizer.betas=[0.9,0.95]"]}
  plain: {from: null, overrides: [objective=ddpm]}
"""
MINE = "experiment=ladder"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments/ladder").mkdir(parents=True)
    (tmp_path / "experiments/ladder/recipe.yaml").write_text(LADDER)
    return tmp_path


def test_an_arm_stands_on_base_unless_it_says_otherwise() -> None:
    assert arms_of([MINE]) == {
        "base": Arm(None, ()),
        "logit_normal": Arm("base", ("objective.time_sampling=logit_normal",)),
        "beta2": Arm("logit_normal", ("optimizer.betas=[0.9,0.95]",)),
        "plain": Arm(None, ("objective=ddpm",)),
    }
    assert list(lineage(["beta2"], arms_of([MINE]))) == ["base", "logit_normal", "beta2"]
    assert arms_of(["arms.a=seed=1", "arms.b=seed=2"]) == {
        "a": Arm(None, ("seed=1",)), "b": Arm(None, ("seed=2",)),
    }  # fmt: skip


def test_it_is_what_its_overrides_are() -> None:
    """The hashes are equal too, so runs trained without the arm are reused."""
    arm = compose_train([MINE, "arm=beta2"])
    plain = compose_train(
        [MINE, "objective.time_sampling=logit_normal", "optimizer.betas=[0.9,0.95]"]
    )
    assert arm == plain and config_hash(arm) == config_hash(plain)
    assert compose_train([MINE, "arm=base"]) == compose_train([MINE])
    assert compose_train([MINE, "arm=plain"]) == compose_train([MINE, "objective=ddpm"])


def test_what_is_typed_wins_and_is_said() -> None:
    found = Composer().compose([MINE, "optimizer.betas=[0.9,0.97]", "arm=beta2"])
    assert found.config.optimizer.betas == [0.9, 0.97]
    assert found.notes == [
        "optimizer.betas=[0.9,0.97] overrides optimizer.betas=[0.9,0.95] of arm=beta2"
    ]


@pytest.mark.parametrize(
    ("typed", "overrides"),
    [
        ("arms.more=", ()),
        ("arms.more=optimizer.betas=[0.9,0.95]", ("optimizer.betas=[0.9,0.95]",)),
        ("arms.more=[]", ()),
        ("arms.more=[objective.time_sampling=cosmap,seed=1]",
         ("objective.time_sampling=cosmap", "seed=1")),
        ("arms.more=['optimizer.betas=[0.9,0.95]','seed=1']",
         ("optimizer.betas=[0.9,0.95]", "seed=1")),
        ("arms.more={overrides:['seed=1']}", ("seed=1",)),
        ("arms.more={overrides: [seed=1]}", ("seed=1",)),
    ],
)  # fmt: skip
def test_arms_of_a_command(typed: str, overrides: tuple[str, ...]) -> None:
    assert arms_of([MINE, typed])["more"] == Arm("base", overrides)
    assert with_arm([typed, "arm=more", "patch=2"]) == ([*overrides, "patch=2"], [])


def test_a_command_adds_to_the_arms_of_a_recipe_and_of_those_below(folder: Path) -> None:
    (folder / "experiments/higher").mkdir()
    (folder / "experiments/higher/recipe.yaml").write_text(
        "defaults: [/experiment/ladder, _self_]\narms: {beta2: [seed=3], last: {from: beta2}}\n"
    )
    given = ["experiment=higher", "arms.next={from: last, overrides: [seed=4]}"]
    arms = arms_of(given)
    assert list(arms) == ["base", "logit_normal", "beta2", "plain", "last", "next"]
    assert arms["beta2"] == Arm("base", ("seed=3",))
    assert compose_train([*given, "arm=last"]).seed == 3
    assert compose_train([*given, "arm=next"]).seed == 4


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["arm=none"], "arm=none: no such choice; allowed: base, logit_normal, beta2, plain"),
        (["arm=beta"], "did you mean arm=beta2?"),
        (["arms.a={from: b}"], "arms.a.from: arm=b: no such choice; allowed: base"),
        (["arms.base={from: beta2}"], "arms.base.from: extends itself"),
        (["arms.a={above: b}"], "arms.a.above: an arm has from and overrides"),
        (["arms.a=[1]"], r"arms.a=\[1\]: expected a list of overrides"),
        (
            ["arms.a=seed=0,1"],
            "arms.a: seed=0,1: several values; an arm sets one value for each key",
        ),
        (["arms.a=tracking=none"], "arms.a: tracking=none: cannot be set by an arm"),
        (
            ["arms.a=hydra/launcher=joblib"],
            "arms.a: hydra/launcher=joblib: cannot be set by an arm",
        ),
        (["arms.a=[seed=1"], r"arms.a=\[seed=1: not understood; write arms.a=OVERRIDE"),
        (["arms.a/b=seed=1"], "arms.a/b: is no name"),
        (["arms.a=seed"], "seed: not understood"),
    ],
)
def test_arms_that_mean_nothing(given: list[str], says: str) -> None:
    with pytest.raises(RequestError, match=says):
        compose_train(
            [MINE, *(["arm=a"] if given[0].startswith("arms.a") else ["arm=base"]), *given]
        )


def test_no_arms_at_all() -> None:
    with pytest.raises(RequestError, match="arm=a: no arms are defined"):
        compose_train(["arm=a"])
