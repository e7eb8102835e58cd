"""Hints from option names of other trainers to the lab's keys, and the syntax of lists."""

from __future__ import annotations

from pathlib import Path

import pytest

from dit_lab.config.components import COMPONENTS
from dit_lab.config.compose import compose_train
from dit_lab.config.objects import to_tree
from dit_lab.config.spelling import KEYS_OF_OTHERS, lacking, meant, takes_list
from dit_lab.core.errors import RequestError
from dit_lab.runs.folder import flatten

QUICKSTART = "experiment=quickstart"


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refusal(*typed: str) -> str:
    with pytest.raises(RequestError) as refused:
        compose_train([QUICKSTART, *typed])
    return str(refused.value)


def test_every_key_of_the_table_is_there() -> None:
    """Of a training, or of a component that the package has; no name is a key of the lab itself."""
    keys = {key for key, _ in flatten(to_tree(compose_train([QUICKSTART])))}
    keys |= {
        f"{group}.{name}"
        for group, of_it in COMPONENTS.items()
        for schema in of_it.values()
        for name in schema.__dataclass_fields__
    }
    assert KEYS_OF_OTHERS.keys() <= keys
    names = [name for text in KEYS_OF_OTHERS.values() for name in text.split()]
    assert not keys & set(names)
    assert all(len(text.split()) == len(set(text.split())) for text in KEYS_OF_OTHERS.values())


@pytest.mark.parametrize(
    ("typed", "key"),
    {
        "batch_size": "training.global_batch_size",
        "training.batch_size": "training.global_batch_size",
        "lr": "optimizer.lr",
        "learning_rate": "optimizer.lr",
        "optimizer.learning_rate": "optimizer.lr",
        "weight_decay": "optimizer.weight_decay",
        "epochs": "training.total_steps",
        "max_steps": "training.total_steps",
        "hidden_size": "model.hidden_size",
        "model.width": "model.hidden_size",
        "depth": "model.depth",
        "num_layers": "model.depth",
        "num_heads": "model.num_heads",
        "ema_decay": "ema.decays",
        "cfg_scale": "guidance.scale",
        "warmup": "schedule.warmup_steps",
        "schedule.warmup": "schedule.warmup_steps",
        "max_grad_norm": "training.clip_norm",
        "dropout": "model.class_dropout_prob",
        "loss": "objective.loss",
        "num_gpus": "distributed.num_processes",
    }.items(),
)
def test_a_common_name_leads_to_the_labs(typed: str, key: str) -> None:
    assert refusal(f"{typed}=1") == f"{typed}: no such key; did you mean {key}?"


def test_a_name_with_two_meanings_leads_to_both() -> None:
    said = refusal("sampler=euler", "num_steps=10")
    assert said == "num_steps: no such key; did you mean training.total_steps or sampler.steps?"
    assert meant("sampler.num_steps", ["training.total_steps", "sampler.steps"]) == "sampler.steps"


def test_an_option_of_another_component_is_named() -> None:
    said = refusal("noise_schedule=cosine")
    assert said == (
        "noise_schedule: no such key; the lab calls it objective.beta_schedule, which the chosen "
        "objective has not"
    )
    known = ["objective.beta_schedule", "schedule.warmup_steps"]
    assert meant("noise_schedule", known) == "objective.beta_schedule"


def test_other_words_are_guessed_as_before() -> None:
    assert "did you mean model.patch_size?" in refusal("patch_size=2")
    assert "did you mean patch=NAME?" in refusal("pattch=2")
    assert "did you mean seed?" in refusal("sed=2")
    assert meant("nothing.of.the.kind", ["seed"]) == "" == lacking("nothing")
    assert lacking("batch_size") == ""  # no option of a component


# ---- lists --------------------------------------------------------------------------------------


def test_what_is_a_list() -> None:
    lists = [
        "ema.decays", "ema.power_stds", "guidance.interval", "optimizer.betas", "sample.labels",
        "sampler.times",
    ]  # fmt: skip
    assert all(map(takes_list, lists))
    assert not any(map(takes_list, ["seed", "name", "training.total_steps", "model", "ema", "x.y"]))


@pytest.mark.parametrize("key", ["ema.decays", "optimizer.betas", "guidance.interval"])
def test_a_list_without_brackets(key: str) -> None:
    assert refusal(f"{key}=0.9,0.99") == (
        f"{key}=0.9,0.99: several values at once make a sweep, which needs -m; for one list write "
        f"{key}=[0.9,0.99]"
    )
    said = refusal(f"{key}=0.9")
    assert said.startswith(f"{key}=0.9: expected a list such as [1, 2] (a number each)")
    assert said.endswith(f"; write {key}=[0.9], and in a sweep {key}=[0.9],[...]")
    assert "for one list" not in refusal("seed=1,2")
