"""Which noise belongs to which image: dealt out anew within groups, or carried there by a model."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from dit_lab.config.checks.training import check_data, check_settings
from dit_lab.config.compose import compose_train
from dit_lab.core import rng
from dit_lab.core.errors import RequestError
from dit_lab.core.types import Batch
from dit_lab.data.order import SampleOrder
from dit_lab.data.pair_facts import SHARD_PAIRS, PairFacts, pair_noise, read_pair_facts, shard
from dit_lab.data.pairs import Pairs
from dit_lab.runs.folder import digest
from dit_lab.training.batches import TrainingBatches
from dit_lab.training.coupling import Independent, OptimalTransport, Reflow
from tests.mixture import normal

Make = Callable[..., TrainingBatches]


def batch(count: int, *, classes: int = 1, first: int = 0, seed: int = 0) -> Batch:
    """Images of two channels and 2 x 1, whose classes come in no order."""
    data, noise = normal(2 * count, (2, 2, 1), seed).float().chunk(2)
    source = torch.Generator().manual_seed(seed)
    return Batch(
        sample_counter=torch.arange(first, first + count),
        data=data,
        labels=torch.randint(classes, (count,), generator=source),
        noise=noise,
        time=torch.rand(count, generator=source),
        drop_label=torch.rand(count, generator=source) < 0.5,
    )


def distance(data: Tensor, noise: Tensor) -> float:
    """The sum of squares that is to be least, in float64."""
    return (data.double() - noise.double()).square().sum().item()


def rows(noise: Tensor) -> list[list[float]]:
    """As a set would be, but with repeats."""
    return sorted(noise.flatten(1).tolist())


# ---- optimal transport --------------------------------------------------------------------------


@pytest.mark.parametrize("within_class", [True, False])
@pytest.mark.parametrize("first", [0, 24])
def test_noise_is_dealt_out_anew_within_each_group(within_class: bool, first: int) -> None:
    """Nothing is lost, repeated or changed, and every other field stays."""
    before = batch(48, classes=3, first=first)
    coupling = OptimalTransport(group_images=8, within_class=within_class)
    after = coupling.couple(before)
    for group in range(0, 48, 8):
        places = slice(group, group + 8)
        assert rows(after.noise[places]) == rows(before.noise[places])
    assert not torch.equal(after.noise, before.noise)
    for name in set(Batch.__slots__) - {"noise"}:
        assert torch.equal(getattr(after, name), getattr(before, name)), name


def least(data: Tensor, noise: Tensor, labels: Tensor) -> float:
    """Over all orders of the noise that keep to the labels."""
    allowed = (
        list(order)
        for order in itertools.permutations(range(len(data)))
        if torch.equal(labels[list(order)], labels)
    )
    return min(distance(data, noise[order]) for order in allowed)


@pytest.mark.parametrize("size", [2, 3, 5, 6])
@pytest.mark.parametrize("classes", [1, 2, 3])
@pytest.mark.parametrize("within_class", [True, False])
def test_the_distance_is_the_least_of_all_orders(
    size: int, classes: int, within_class: bool
) -> None:
    """By trying every one, up to the rounding of sums."""
    before = batch(2 * size, classes=classes, seed=size)
    coupling = OptimalTransport(group_images=size, within_class=within_class)
    after = coupling.couple(before)
    labels = before.labels if within_class else torch.zeros(2 * size)
    for group in (slice(0, size), slice(size, 2 * size)):
        found = distance(before.data[group], after.noise[group])
        expected = least(before.data[group], before.noise[group], labels[group])
        assert found == pytest.approx(expected, rel=1e-12)


def test_no_noise_crosses_labels() -> None:
    """So that the noise of a class is what it was, as a set; without it, noise does cross."""
    before = batch(64, classes=4)
    within = OptimalTransport(group_images=32).couple(before)
    across = OptimalTransport(group_images=32, within_class=False).couple(before)
    kept = [
        [rows(noise[before.labels == label]) == rows(before.noise[before.labels == label])
         for label in range(4)]
        for noise in (within.noise, across.noise)
    ]  # fmt: skip
    assert kept == [[True] * 4, [False] * 4]
    assert distance(before.data, across.noise) < distance(before.data, within.noise)
    assert distance(before.data, within.noise) < distance(before.data, before.noise)


def noise_by_counter(batches: list[TrainingBatches], *, steps: int = 3) -> dict[int, Tensor]:
    """The noise of every image of some steps, from all processes."""
    found: dict[int, Tensor] = {}
    for process in batches:
        for part in chain(*islice(process.from_step(0), steps)):
            for counter, noise in zip(part.sample_counter.tolist(), part.noise, strict=True):
                assert counter not in found
                found[counter] = noise
    return found


@pytest.mark.parametrize("within_class", [True, False])
@pytest.mark.parametrize(("num_processes", "accumulation"), [(1, 2), (2, 1), (2, 2)])
def test_noise_does_not_depend_on_how_a_batch_is_cut(
    make_batches: Make, num_processes: int, accumulation: int, within_class: bool
) -> None:
    """Exactly: groups are cut by sample counters, of which no process sees half a group."""
    coupling = OptimalTransport(group_images=4, within_class=within_class)
    whole = noise_by_counter([make_batches(coupling=coupling)])
    cut = noise_by_counter(
        [
            make_batches(
                coupling=coupling,
                accumulation=accumulation,
                num_processes=num_processes,
                process_index=process,
            )
            for process in range(num_processes)
        ]
    )
    assert cut.keys() == whole.keys() == set(range(48))
    assert all(torch.equal(cut[counter], noise) for counter, noise in whole.items())
    plain = noise_by_counter([make_batches()])
    assert any(not torch.equal(plain[counter], noise) for counter, noise in whole.items())


def test_other_couplings_change_nothing() -> None:
    """Independent noise is that of the draws, and pairs come with theirs."""
    before = batch(16, classes=2)
    for coupling in (Independent(), Reflow(pairs="anywhere")):
        assert coupling.couple(before) is before


def test_groups_of_one_are_refused() -> None:
    with pytest.raises(RequestError, match="group_images: 1 is not at least 2"):
        OptimalTransport(group_images=1)


# ---- what a command refuses ---------------------------------------------------------------------

DIGITS = ["dataset=digits", "codec=identity", "model=pico", "precision=fp32", "tracking=none",
          "training.global_batch_size=32", "objective=rectified_flow"]  # fmt: skip
DEALT = "coupling=optimal_transport"


def refusal(*overrides: str) -> str:
    """What the checks of a training say, "" where nothing."""
    config = compose_train([*DIGITS, *overrides])
    try:
        check_settings(config)
        check_data(config)
    except RequestError as refused:
        return str(refused)
    return ""


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


REFUSED = {
    "a chain": ([DEALT, "objective=ddpm"], "coupling=optimal_transport: not with objective=ddpm"),
    "half a group": (
        [DEALT, "training.accumulation=2"],
        "coupling.group_images=32: does not divide the micro-batch of 16 images per process; "
        "use 2, 4, 8, 16",
    ),
    "across classes": (
        [DEALT, "coupling.within_class=false"],
        "coupling.within_class=false: the data has 10 classes",
    ),
    "renewed noise": (
        [DEALT, "sampler=euler_maruyama"],
        "sampler=euler_maruyama: is a stochastic sampler",
    ),
    "no pairs": (["coupling=reflow"], "coupling.pairs: not given"),
    "pairs that are not there": (
        ["coupling=reflow", "coupling.pairs=nowhere"],
        "nowhere: holds no whole pairs",
    ),
    "pairs on a bent path": (
        ["coupling=reflow", "objective=flow_matching", "objective.path=trigonometric"],
        "objective.path=trigonometric: coupling=reflow straightens paths",
    ),
    "nothing": ([DEALT], ""),
    "across classes by force": ([DEALT, "coupling.within_class=false", "coupling.force=true"], ""),
    "whole groups": ([DEALT, "training.accumulation=2", "coupling.group_images=16"], ""),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.usefixtures("elsewhere")
def test_what_cannot_be_coupled_is_refused(case: str) -> None:
    overrides, expected = REFUSED[case]
    found = refusal(*overrides)
    assert expected in found and bool(expected) == bool(found), found


# ---- pairs --------------------------------------------------------------------------------------

FACTS = PairFacts(
    drawn_by="0123456789ab at step 40, ema-0.9",
    sampler={"_target_": "dit_lab.samplers.ode.Euler", "steps": 2},
    guidance={"scale": 1.0, "weak_run": None},
    seed=7,
    train_pairs=SHARD_PAIRS + 100,  # two files, and the second one is shared by the splits
    held_out_pairs=23,
    latent_shape=[1, 2, 2],
    num_classes=3,
    codec="identity",
    dtype="float32",
    noise=pair_noise("0123456789ab at step 40, ema-0.9"),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pairs whose data is their number, over and over, and whose labels go round."""
    for number, places in enumerate(torch.arange(FACTS.num_pairs).split(SHARD_PAIRS)):
        data = places.float().reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous()
        save_file({"data": data, "labels": places % 3}, shard(tmp_path, number))
    FACTS.write(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("split", "first", "count"), [("train", 0, 4196), ("validation", 4196, 23)]
)
def test_pairs_give_back_data_labels_and_the_noise_of_their_number(
    folder: Path, split: str, first: int, count: int
) -> None:
    pairs = Pairs(folder, split=split)
    assert len(pairs) == count
    for indices in (torch.arange(count), torch.tensor([count - 1, 0, 5, 5])):
        data, labels = pairs.fetch(indices, None)
        assert (data.dtype, labels.dtype) == (torch.float32, torch.int64)
        numbers = first + indices
        assert torch.equal(data, numbers.float().reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2))
        assert torch.equal(labels, numbers % 3)
        expected = rng.normal(7, f"pairs/{FACTS.drawn_by}/noise", numbers, (1, 2, 2))
        assert torch.equal(pairs.noise(indices), expected)
        counted, _ = pairs.fetch(indices, indices + 1000)  # nothing is augmented
        assert torch.equal(counted, data)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_training_batches_hold_pairs(folder: Path, make_batches: Make, num_workers: int) -> None:
    """Data and noise of one number, whichever image of the training they are."""
    pairs = Pairs(folder, split="train")
    made = make_batches(dataset=pairs, coupling=Reflow(pairs=str(folder)), num_workers=num_workers)
    draws = replace(made.draws, latent_shape=(1, 2, 2))
    batches = replace(made, draws=draws, order=SampleOrder(0, len(pairs)))
    for (found,) in islice(batches.from_step(0), 3):
        numbers = batches.order.indices(found.sample_counter)
        assert not torch.equal(numbers, found.sample_counter)
        assert torch.equal(found.data[:, 0, 0, 0], numbers.float())
        assert torch.equal(found.labels, numbers % 3)
        assert torch.equal(found.noise, pairs.noise(numbers))


def test_facts_are_read_as_they_were_written(folder: Path) -> None:
    assert read_pair_facts(folder) == FACTS
    assert read_pair_facts(folder).fingerprint == FACTS.fingerprint


def test_a_folder_without_whole_facts_holds_no_pairs(folder: Path) -> None:
    with pytest.raises(RequestError, match=r"coupling\.pairs: not given"):
        read_pair_facts(None)
    (folder / "pairs.json").write_text('{"seed": 7}')
    with pytest.raises(RequestError, match="holds no whole pairs"):
        read_pair_facts(folder)
    (folder / "pairs.json").unlink()
    with pytest.raises(RequestError, match="holds no whole pairs"):
        Pairs(folder, split="train")


CHANGED: dict[str, Any] = {
    "drawn_by": "0123456789ab at step 40, model",
    "sampler": {"_target_": "dit_lab.samplers.ode.Euler", "steps": 3},
    "guidance": {"scale": 1.0, "weak_run": "0123456789ab at step 10, ema-0.9"},
    "seed": 8,
    "train_pairs": FACTS.train_pairs - 1,
    "held_out_pairs": FACTS.held_out_pairs + 1,
    "latent_shape": [1, 4, 1],
    "num_classes": 4,
    "codec": "other",
    "dtype": "bf16 autocast",
    "noise": pair_noise("0123456789ab at step 40, model"),
}


def test_the_fingerprint_changes_with_every_field() -> None:
    assert CHANGED.keys() == set(PairFacts.__slots__)
    others = {replace(FACTS, **{name: value}).fingerprint for name, value in CHANGED.items()}
    assert len(others | {FACTS.fingerprint}) == len(CHANGED) + 1
    moved = replace(
        FACTS, train_pairs=FACTS.train_pairs - 1, held_out_pairs=FACTS.held_out_pairs + 1
    )
    assert moved.num_pairs == FACTS.num_pairs
    assert moved.fingerprint not in {FACTS.fingerprint, *others}


def test_pairs_of_earlier_versions_keep_their_fingerprint_and_noise(folder: Path) -> None:
    """They say nothing of their noise, which was that of samples."""
    old = json.loads((folder / "pairs.json").read_text())
    del old["noise"]
    (folder / "pairs.json").write_text(json.dumps(old))
    assert read_pair_facts(folder).fingerprint == digest(old)
    expected = rng.normal(7, rng.SAMPLE_NOISE, torch.arange(3), (1, 2, 2))
    assert torch.equal(Pairs(folder, split="train").noise(torch.arange(3)), expected)


@pytest.mark.parametrize(
    ("seeds", "refused"),
    [
        ([], False),
        (["sample.seed=7"], True),
        (["sample.seed=8"], False),
        (["evaluation.num_seeds=7"], False),  # 0 to 6
        (["evaluation.num_seeds=8"], True),
        (["sample.seed=5", "evaluation.num_seeds=3"], True),
        (["sample.seed=8", "evaluation.num_seeds=10"], False),
    ],
)
def test_no_seed_of_an_evaluation_has_noise_that_was_trained_on(
    elsewhere: Path, seeds: list[str], refused: bool
) -> None:
    """With new pairs none can; with old ones those that meet their seed are refused."""
    new = replace(FACTS, latent_shape=[1, 8, 8], num_classes=10)
    texts = ["coupling=reflow", f"coupling.pairs={elsewhere}", *seeds]
    new.write(elsewhere)
    assert refusal(*texts) == ""
    replace(new, noise=None).write(elsewhere)
    said = "the pairs were drawn with seed 7 by an earlier version"
    assert (said in refusal(*texts)) == refused == bool(refusal(*texts))


def test_pairs_are_checked_against_the_model(elsewhere: Path) -> None:
    digits = replace(FACTS, latent_shape=[1, 8, 8], num_classes=10)
    texts = ["coupling=reflow", f"coupling.pairs={elsewhere}"]
    digits.write(elsewhere)
    assert refusal(*texts) == ""
    for other, what in (
        (replace(digits, num_classes=3), "holds 1 x 8 x 8 in 3 classes; the model sees 1 x 8 x 8"),
        (replace(digits, latent_shape=[4, 8, 8]), "holds 4 x 8 x 8 in 10 classes; the model sees"),
    ):
        other.write(elsewhere)
        assert what in refusal(*texts)
