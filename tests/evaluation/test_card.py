"""The evaluation card: every result has its conditions, and each protocol has its own hash."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest

from dit_lab.core.errors import RequestError
from dit_lab.evaluation.card import Card, Evaluation, last_evaluation, read_evaluation
from dit_lab.evaluation.comparing import Effect, differences
from dit_lab.evaluation.table import (
    COPIES,
    FEW,
    UNLIKE,
    Row,
    findings,
    is_row_key,
    over_seeds,
    with_caveats,
)
from dit_lab.runs.folder import RunFolder

GIVEN: dict[str, Any] = {
    "samples": "generated",
    "run": "0123456789ab",
    "step": 1200,
    "weights": "ema-0.999",
    "objective": {"_target_": "dit_lab.objectives.ddpm.DDPM", "num_timesteps": 1000},
    "sampler": {"_target_": "dit_lab.samplers.ancestral.DDIMSampler", "steps": 50, "eta": 0.0},
    "evaluations_per_image": 50.0,
    "guidance": {"scale": 1.5, "weight": None, "interval": [0.0, 1.0], "channels": "all"},
    "num_images": 1024,
    "labels": "as frequent as in the training images",
    "seed": 0,
    "num_seeds": 1,
    "metrics": {
        "fid": {
            "_target_": "dit_lab.evaluation.metrics.components.Frechet",
            "extractor": "inception",
        }
    },
    "metrics_seed": 0,
    "reference": {"data": "abc", "training_images": 1437, "held_out_images": 360, "levels": 17},
    "features": {"pixels": "8x8x1"},
    "likelihood": None,
    "codec": "identity",
    "chunk_images": 32,
    "dtype": "float32",
    "device": "x86_64",
    "num_threads": 2,
    "code": {"trained": "a", "evaluated": "b", "trained_before": ""},
    "versions": {"python": "3.11", "torch": "2.11"},
    "methods": {"sra": {"_target_": "dit_lab.methods.alignment.Sra", "weight": 0.5}},
}
OTHERWISE: dict[str, Any] = {
    "samples": "memoriser",
    "run": "ba9876543210",
    "step": 1100,
    "weights": "model",
    "objective": GIVEN["objective"] | {"num_timesteps": 500},
    "sampler": GIVEN["sampler"] | {"steps": 51},
    "evaluations_per_image": 100.0,
    "guidance": GIVEN["guidance"] | {"interval": [0.1, 1.0]},
    "num_images": 1000,
    "labels": "in turn",
    "seed": 1,
    "num_seeds": 3,
    "metrics": {
        "fid": {"_target_": "dit_lab.evaluation.metrics.components.Frechet", "extractor": "dinov2"}
    },
    "metrics_seed": 1,
    "reference": GIVEN["reference"] | {"held_out_images": 359},
    "features": {"pixels": "16x16x1"},
    "likelihood": {"images": 10},
    "codec": "a1b2c3",
    "chunk_images": 64,
    "dtype": "bf16 autocast",
    "device": "a GPU",
    "num_threads": 4,
    "code": GIVEN["code"] | {"evaluated": "c"},
    "versions": GIVEN["versions"] | {"torch": "2.12"},
    "methods": {"sra": GIVEN["methods"]["sra"] | {"weight": 1.0}},
}
FIELDS = [field.name for field in fields(Card)]
FOUND = {"evaluations_per_image", "device", "num_threads", "code", "versions", "methods"}
"""Fields that were not asked for: they follow from the others, or from where it was computed."""


def card(**changes: Any) -> Card:
    return Card(**(GIVEN | changes))


def test_the_tests_know_every_field() -> None:
    assert GIVEN.keys() == OTHERWISE.keys() == set(FIELDS)
    assert all(GIVEN[name] != OTHERWISE[name] for name in FIELDS)


@pytest.mark.parametrize("name", [name for name in FIELDS if name != "methods"])
def test_no_field_can_be_left_out(name: str) -> None:
    with pytest.raises(TypeError, match=rf"missing 1 required keyword-only argument: '{name}'"):
        Card(**{field: value for field, value in GIVEN.items() if field != name})


@pytest.mark.parametrize("name", FIELDS)
def test_hashes_tell_apart_what_was_asked(name: str) -> None:
    """Only the protocol ignores run, step, metrics and features."""
    ours, other = card(), card(**{name: OTHERWISE[name]})
    assert (ours.eval_hash != other.eval_hash) == (name not in FOUND)
    of_one = {"run", "step", "metrics", "features"}
    assert (ours.protocol != other.protocol) == (name not in FOUND | of_one)
    assert re.fullmatch("[0-9a-f]{12}", other.eval_hash)


def test_hashes_do_not_depend_on_the_order_of_keys() -> None:
    turned = {name: value for name, value in reversed(GIVEN["sampler"].items())}
    assert card(sampler=turned).eval_hash == card().eval_hash
    assert card(sampler=turned).protocol == card().protocol


def test_a_card_cannot_be_changed_afterwards() -> None:
    with pytest.raises(AttributeError):
        card().seed = 5  # type: ignore[misc]


# ---- two cards ----------------------------------------------------------------------------------

NOT_COMPARABLE = {
    "sampler": ("sampler.steps", "50", "51"),
    "guidance": ("guidance.interval", "[0.0, 1.0]", "[0.1, 1.0]"),
    "num_images": ("num_images", "1024", "1000"),
    "labels": ("labels", "as frequent as in the training images", "in turn"),
    "reference": ("reference.held_out_images", "360", "359"),
    "metrics": ("metrics.fid.extractor", "inception", "dinov2"),
    "features": ("features.pixels", "8x8x1", "16x16x1"),
    "codec": ("codec", "identity", "a1b2c3"),
    "dtype": ("dtype", "float32", "bf16 autocast"),
}
"""Field -> the difference that is named where it is as in OTHERWISE: decoder and all."""


@pytest.mark.parametrize("name", FIELDS)
def test_every_difference_is_named_with_what_it_means(name: str) -> None:
    found = differences(card(), card(**{name: OTHERWISE[name]}))
    if name in ("evaluations_per_image", "likelihood"):  # follows; was measured by one alone
        assert not found
        return
    (difference,) = found
    assert (difference.effect is Effect.protocol) == (name in NOT_COMPARABLE)
    if name in NOT_COMPARABLE:
        assert (difference.key, difference.first, difference.second) == NOT_COMPARABLE[name]
    back = differences(card(**{name: OTHERWISE[name]}), card())
    assert back == [replace(difference, first=difference.second, second=difference.first)]


@pytest.mark.parametrize(
    ("changes", "key", "second"),
    [
        ({"guidance": GIVEN["guidance"] | {"scale": 4.0}}, "guidance.scale", "4.0"),
        (
            {"sampler": GIVEN["sampler"] | {"_target_": "dit_lab.samplers.ancestral.DDPMSampler"}},
            "sampler",
            "DDPMSampler",
        ),
        ({"sampler": {**GIVEN["sampler"], "clip_data": True}}, "sampler.clip_data", "True"),
        ({"reference": GIVEN["reference"] | {"data": "def"}}, "reference.data", "def"),
    ],
)
def test_parts_of_a_protocol(changes: dict[str, Any], key: str, second: str) -> None:
    (difference,) = differences(card(), card(**changes))
    assert (difference.key, difference.second) == (key, second)
    assert difference.effect is Effect.protocol


def test_likelihoods_are_compared_where_both_have_them() -> None:
    ours, other = ({"images": 10, "divergence": how} for how in ("exact", "Hutchinson"))
    (difference,) = differences(card(likelihood=ours), card(likelihood=other))
    assert difference.key == "likelihood.divergence" and difference.effect is Effect.protocol


def test_metrics_and_features_of_one_card_alone_are_no_difference() -> None:
    other = card(metrics={"kid": {"extractor": "dinov2"}}, features={"dinov2": "0123"})
    assert not differences(card(), other)


# ---- rows and what is wrong with them -----------------------------------------------------------


def row(metric: str, value: float, **changes: Any) -> Row:
    options = {
        "extractor": "pixels", "against": "training", "num_images": 120, "floor": None, **changes,
    }  # fmt: skip
    return Row(metric=metric, value=value, **options)


def table(**changes: float) -> list[Row]:
    """A table of samples as good as real ones, with changes."""
    values = {
        "two_sample": 0.52, "recall": 0.9, "distance_ratio": 1.0, "exact_copies": 0.0,
        "near_copies": 0.01, "precision": 0.9, "class_accuracy": 0.99, "fd": 0.5,
    } | changes  # fmt: skip
    floors = {
        "two_sample": 0.5, "recall": 0.96, "distance_ratio": 1.0, "exact_copies": 0.0,
        "near_copies": 0.01, "precision": 0.95, "class_accuracy": 1.0, "fd": 0.5,
    }  # fmt: skip
    whole = row("two_sample", values["two_sample"], num_images=360)  # has no floor
    return [whole, *(row(name, values[name], floor=floors[name]) for name in floors)]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"distance_ratio": 0.79}, [COPIES]),
        ({"distance_ratio": 0.81}, []),
        ({"exact_copies": 0.06}, [COPIES]),
        ({"exact_copies": 0.05, "near_copies": 0.06}, []),  # not beyond the floor by more than 0.05
        ({"near_copies": 0.07}, [COPIES]),
        ({"two_sample": 0.81}, [UNLIKE]),
        ({"two_sample": 0.8}, []),
        ({"recall": 0.47}, [FEW]),  # half of the floor is 0.48
        ({"recall": 0.49}, []),
        ({"two_sample": 1.0, "recall": 0.0}, [UNLIKE, FEW]),
        ({"two_sample": 1.0, "recall": 0.0, "exact_copies": 1.0}, [COPIES, UNLIKE, FEW]),
    ],
)
def test_findings(changes: dict[str, float], expected: list[str]) -> None:
    assert findings(table(**changes)) == expected


def test_one_row_that_trees_tell_apart_is_enough() -> None:
    """More images give more power: the row of all images has no baseline and counts too."""
    rows = table()
    assert findings([replace(rows[0], value=0.9), *rows[1:]]) == [UNLIKE]


def test_caveats_stand_where_a_number_looks_good_in_spite_of_it() -> None:
    marked = with_caveats(table(two_sample=1.0, recall=0.1))
    caveats = {row.metric: row.caveat for row in marked}
    for metric in ("two_sample", "recall", "exact_copies"):
        assert caveats[metric] == ""  # what found it, and what is true all the same
    assert caveats["distance_ratio"] == caveats["fd"] == UNLIKE
    assert caveats["precision"] == f"{UNLIKE}; {FEW}"
    assert {row.caveat for row in with_caveats(table())} == {""}
    assert [replace(row, caveat="") for row in marked] == table(two_sample=1.0, recall=0.1)


def test_a_frechet_distance_of_other_features_is_not_blind_to_what_trees_see_in_pixels() -> None:
    rows = [row("two_sample", 1.0), row("fd", 0.5, extractor="classifier"), row("fd", 0.5)]
    assert [marked.caveat for marked in with_caveats(rows)] == ["", "", UNLIKE]


def test_findings_need_no_metric_but_those_that_see_them() -> None:
    assert findings([row("class_accuracy", 0.5, floor=0.9)]) == []
    assert findings([row("distance_ratio", 0.5, floor=1.0)]) == [COPIES]


def test_several_seeds_give_mean_deviation_and_minimum() -> None:
    tables = [table(recall=value) for value in (0.7, 0.8, 0.9)]
    assert over_seeds(tables[:1]) == tables[0]
    (recall,) = [row for row in over_seeds(tables) if row.metric == "recall"]
    assert (recall.value, recall.deviation, recall.minimum) == pytest.approx((0.8, 0.1, 0.7))
    assert recall.floor == 0.96
    copying = over_seeds([table(distance_ratio=value) for value in (0.1, 1.3)])  # 0.7 in the mean
    assert {row.caveat for row in copying if row.metric == "precision"} == {COPIES}


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({}, "eval/fid_inception_n50000"),
        ({"metric": "fd", "extractor": "classifier"}, "eval/fd_classifier_n50000"),
        ({"metric": "recall", "against": "held-out"}, "eval/recall_inception_held_out_n50000"),
        ({"metric": "bits", "extractor": ""}, "eval/bits_n50000"),
    ],
)
def test_keys(changes: dict[str, str], key: str) -> None:
    given: dict[str, Any] = {"metric": "fid", "extractor": "inception", **changes}
    named = row(value=0.5, num_images=50_000, **given)
    assert named.key == key
    assert is_row_key(key)
    assert not any(map(is_row_key, ("eval/loss", "eval/mse", "train/loss_n3", "eval/loss_n")))


# ---- on disk ------------------------------------------------------------------------------------


def evaluation(**changes: Any) -> Evaluation:
    return Evaluation(card=card(**changes), rows=with_caveats(table(two_sample=0.9)))


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    ours = evaluation()
    path = ours.write(tmp_path / "evaluations")
    assert path == tmp_path / "evaluations" / f"{ours.card.eval_hash}.json"
    again = read_evaluation(path)
    assert again == ours
    assert again.card.eval_hash == ours.card.eval_hash
    assert again.metrics == ours.metrics
    assert ours.metrics["eval/recall_pixels_n120"] == 0.9
    content = json.loads(path.read_text())
    assert content["findings"] == again.findings == [UNLIKE]
    assert content["card"] == asdict(ours.card)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def damaged(content: dict[str, Any]) -> dict[str, bytes]:
    """Contents that are not an evaluation."""
    whole = json.dumps(content).encode()
    lacking = {**content, "card": {k: v for k, v in content["card"].items() if k != "seed"}}
    more = {**content, "card": {**content["card"], "colour": "red"}}
    return {
        "torn": whole[: len(whole) // 2],
        "empty": b"",
        "no text": b"\xff\xfe\x00\x01",
        "another file": b"{}",
        "a list": b"[]",
        "a number": b"5",
        "a card that lacks a field": json.dumps(lacking).encode(),
        "a card with a field more": json.dumps(more).encode(),
        "rows that are none": json.dumps({**content, "rows": [1]}).encode(),
        "a row that lacks its value": json.dumps({**content, "rows": [{"metric": "x"}]}).encode(),
    }


def test_damaged_files_are_refused_in_one_line(tmp_path: Path) -> None:
    path = evaluation().write(tmp_path)
    for what, content in damaged(json.loads(path.read_text())).items():
        path.write_bytes(content)
        with pytest.raises(RequestError, match=re.escape(f"{path}: ")) as refused:
            read_evaluation(path)
        assert "\n" not in str(refused.value), what
        assert "move it away" in str(refused.value), what
    path.unlink()
    with pytest.raises(RequestError, match="not an evaluation"):
        read_evaluation(path)


def test_the_newest_of_a_step_is_shown(tmp_path: Path) -> None:
    run, folder = RunFolder(tmp_path), tmp_path / "evaluations"
    assert last_evaluation(run, step=1200) is None  # there is no such folder
    for age, changes in enumerate(({"seed": 3}, {"seed": 4}, {"step": 1100}, {"seed": 5})):
        path = evaluation(**changes).write(folder)
        os.utime(path, (1e9 - age, 1e9 - age))
    newest = last_evaluation(run, step=1200)
    assert newest is not None
    assert newest.card.seed == 3
    assert last_evaluation(run, step=5) is None


def test_results_are_read_without_torch() -> None:
    code = (
        "import sys; import dit_lab.evaluation.card, dit_lab.cli.train, dit_lab.cli.evaluate\n"
        "assert not {'torch', 'numpy', 'sklearn', 'mlflow', 'rich'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
