"""The table for sample sets with known failures, and its rows.

Real digits and fewer trees than usual: the tests hold for 30 trees as for 200. Tests of the rows
replace the two-sample test by a function that counts calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from sklearn.svm import SVC
from torch import Tensor

from dit_lab.core.errors import StopRequested
from dit_lab.core.types import ImageSet
from dit_lab.data.digits import Digits
from dit_lab.evaluation.baselines import class_gaussian, memoriser
from dit_lab.evaluation.draws import DRAWS, MIN_IMAGES, draw_images
from dit_lab.evaluation.features.extractors import (
    Extractor,
    Features,
    Pixels,
    Probabilities,
    pixel_features,
)
from dit_lab.evaluation.metrics import components as metrics
from dit_lab.evaluation.metrics import two_sample
from dit_lab.evaluation.metrics.components import (
    ClassAccuracy,
    DensityCoverage,
    Frechet,
    KernelDistance,
    Memorisation,
    PrecisionRecall,
    TwoSample,
)
from dit_lab.evaluation.metrics.frechet import moments
from dit_lab.evaluation.quality import (
    AS_TRAINED,
    BALANCED,
    RANDOM,
    Metric,
    ReferenceSet,
)
from dit_lab.evaluation.reference import Reference, load_images
from dit_lab.evaluation.table import COPIES, FEW, UNLIKE, Row, findings

TREES = 30
COUNT = 600
DRAW = COUNT // DRAWS

METRICS: dict[str, Metric] = {
    "two_sample": TwoSample("pixels"),
    "precision_recall": PrecisionRecall("pixels"),
    "memorisation": Memorisation("pixels"),
    "class_accuracy": ClassAccuracy(),
    "frechet": Frechet("pixels", None),
    "density_coverage": DensityCoverage("pixels"),
    "kernel_distance": KernelDistance("pixels"),
}

Table = dict[tuple[str, str, int], Row]
Measured = Callable[[str], Table]


class Counting:
    """Replaces the random forest: records its inputs, and returns 0.01, 0.02 and so on."""

    def __init__(self) -> None:
        self.calls: list[tuple[Features, Features]] = []

    def __call__(self, first: Features, second: Features, *, seed: int) -> float:
        self.calls.append((first, second))
        return 0.01 * len(self.calls)


class Vectors:
    """A support vector machine in place of the network. Implements `Extractor`."""

    name, fingerprint = "classifier", "a support vector machine"

    def __init__(self, train: ImageSet) -> None:
        self._machine = SVC(C=10).fit(pixel_features(train.pixels), train.labels.numpy())

    def features(self, images: Tensor) -> Features:
        return pixel_features(images)

    def probabilities(self, features: Features) -> Probabilities:
        guesses = self._machine.predict(features)
        return np.eye(len(self._machine.classes_))[np.searchsorted(self._machine.classes_, guesses)]


def yardstick_of(
    reference: Reference, *, seed: int = 0, check_stop: Callable[[], None] = lambda: None
) -> ReferenceSet:
    extractors: dict[str, Extractor] = {"pixels": Pixels()}
    if len(reference.train.labels.unique()) > 1:
        extractors["classifier"] = Vectors(reference.train)
    training = moments(pixel_features(reference.train.pixels))
    return ReferenceSet(
        reference,
        seed=seed,
        extractors=extractors,
        statistics=lambda extractor: training,
        folder=None,
        check_stop=check_stop,
    )


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Counting:
    counting = Counting()
    monkeypatch.setattr(metrics, "two_sample_accuracy", counting)
    return counting


def numbered(kind: int, count: int, *, classes: int = 1) -> ImageSet:
    """Image i holds the bytes (kind, i // 256, i % 256); labels are sorted."""
    numbers = torch.arange(count)
    bytes_ = torch.stack([torch.full_like(numbers, kind), numbers // 256, numbers % 256], dim=1)
    return ImageSet(bytes_.byte().view(count, 1, 3, 1), numbers * classes // count)


@pytest.fixture(scope="module")
def few_trees() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(two_sample, "TREES", TREES)
        yield


@pytest.fixture(scope="module")
def halves(digits: Digits, held_out_digits: Digits) -> tuple[Reference, ImageSet]:
    """Every second training image as the training set, and the others as real samples."""
    train, held_out = (
        load_images(split, at_most=10_000, levels=17) for split in (digits, held_out_digits)
    )
    return Reference(train[0::2], held_out, 10), train[1::2]


@pytest.fixture(scope="module")
def reference(halves: tuple[Reference, ImageSet]) -> Reference:
    return halves[0]


@pytest.fixture(scope="module")
def unseen(halves: tuple[Reference, ImageSet]) -> ImageSet:
    return halves[1]


@pytest.fixture(scope="module")
def digits_yardstick(reference: Reference, few_trees: None) -> ReferenceSet:
    return yardstick_of(reference)


@pytest.fixture(scope="module")
def measured(digits_yardstick: ReferenceSet, reference: Reference, unseen: ImageSet) -> Measured:
    """The table of a sample set by its name, each evaluated once."""
    draw = torch.Generator().manual_seed(0)
    one = unseen.pixels[:1].int()
    nudged = one + torch.randint(-16, 17, (COUNT, 8, 8, 1), generator=draw)
    noise = torch.randint(0, 256, (COUNT, 8, 8, 1), generator=draw).byte()
    labels = digits_yardstick.labels(COUNT, AS_TRAINED, 0)
    sets = {
        "real": unseen[:COUNT],
        "memoriser": memoriser(reference, num_images=COUNT, seed=0),
        "gaussian": class_gaussian(reference, num_images=COUNT, seed=0, levels=17),
        "noise": ImageSet(noise, labels),
        "collapsed": ImageSet(nudged.clamp(0, 255).byte(), labels),
    }
    known: dict[str, Table] = {}

    def table(name: str) -> Table:
        if name not in known:
            rows = digits_yardstick.measure(sets[name], METRICS)
            known[name] = {(row.metric, row.against, row.num_images): row for row in rows}
            assert len(known[name]) == len(rows)  # no key twice
        return known[name]

    return table


# ---- what each kind of failure must show --------------------------------------------------------


def test_real_images_pass(measured: Measured) -> None:
    """Held-out images have no problem, and every value equals its baseline."""
    table = measured("real")
    assert findings(list(table.values())) == []
    assert {row.caveat for row in table.values()} == {""}
    for row in table.values():
        if row.floor is not None and row.metric in ("two_sample", "recall", "precision"):
            # 200 images: standard errors of 0.025 here and in the floor, four of the difference
            assert row.value == pytest.approx(row.floor, abs=4 * 0.035)
    assert table["two_sample", "training", COUNT].value < 0.5 + 4 * 0.5 / (2 * COUNT) ** 0.5
    ratio = table["distance_ratio", "training", COUNT]
    assert ratio.value == pytest.approx(1, abs=0.1)
    assert ratio.floor == 1.0
    assert table["exact_copies", "training", COUNT].value == 0.0


def test_a_memoriser_copies(measured: Measured) -> None:
    """All other metrics look perfect, and are in brackets."""
    table = measured("memoriser")
    assert findings(list(table.values())) == [COPIES]
    assert table["exact_copies", "training", COUNT].value == 1.0
    assert table["near_copies", "training", COUNT].value == 1.0
    assert table["distance_ratio", "training", COUNT].value < 1e-6  # rounding of distances
    for key, row in table.items():
        found_it = row.metric in ("exact_copies", "near_copies", "distance_ratio")
        assert row.caveat == ("" if found_it else COPIES), key
    assert table["class_accuracy", "training", COUNT].value == 1.0
    assert table["recall", "held-out", DRAW].value > 0.9
    assert table["two_sample", "held-out", DRAW].value < 0.65


def test_a_tenth_of_copies_is_found_by_distances_alone(
    reference: Reference, unseen: ImageSet, counting: Counting
) -> None:
    copies = memoriser(reference, num_images=COUNT // 10, seed=0)
    rest = unseen[: COUNT - len(copies)]
    samples = ImageSet(
        torch.cat([rest.pixels, copies.pixels]), torch.cat([rest.labels, copies.labels])
    )
    rows = yardstick_of(reference).measure(samples, METRICS)
    assert findings(rows) == [COPIES]
    by_metric = {row.metric: row.value for row in rows if row.num_images == COUNT}
    assert by_metric["exact_copies"] == 0.1
    assert 0.85 < by_metric["distance_ratio"] < 0.95  # a tenth is at no distance


def test_a_gaussian_per_class_passes_class_accuracy_and_frechet_only(measured: Measured) -> None:
    table = measured("gaussian")
    assert findings(list(table.values())) == [UNLIKE]
    assert table["two_sample", "training", COUNT].value > 0.8
    assert table["class_accuracy", "training", COUNT].value > 0.95
    of_real = measured("real")["fd", "training", COUNT].value
    assert table["fd", "training", COUNT].value < 1.5 * of_real
    assert table["precision", "held-out", DRAW].value > 0.9
    for row in table.values():
        seen_by = row.metric in ("two_sample", "recall", "coverage", "kd", "exact_copies")
        assert row.caveat == ("" if seen_by else UNLIKE)


def test_noise_is_unlike_and_leaves_everything_out(measured: Measured) -> None:
    table = measured("noise")
    assert findings(list(table.values())) == [UNLIKE, FEW]
    assert table["two_sample", "held-out", DRAW].value == 1.0
    assert table["recall", "held-out", DRAW].value == 0.0
    assert table["precision", "held-out", DRAW].value == 0.0
    # one class in ten by chance: four standard errors of 600 images
    assert table["class_accuracy", "training", COUNT].value == pytest.approx(0.1, abs=4 * 0.0123)
    assert table["distance_ratio", "training", COUNT].value > 2
    assert table["near_copies", "training", COUNT].value == 0.0


def test_a_collapsed_generator_leaves_out_most(measured: Measured) -> None:
    """One digit with variations: each sample is of good quality."""
    table = measured("collapsed")
    assert FEW in findings(list(table.values()))
    assert COPIES not in findings(list(table.values()))
    assert table["recall", "training", COUNT].value < 0.1
    precision = table["precision", "training", COUNT]
    assert precision.value > 0.9
    assert FEW in precision.caveat


def test_wrong_labels_show_in_class_accuracy_alone(
    reference: Reference, unseen: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "two_sample_accuracy", lambda *_, seed: 0.5)
    reference_set = yardstick_of(reference)
    pixels, labels = unseen.pixels[:COUNT], unseen.labels[:COUNT]
    right = reference_set.measure(ImageSet(pixels, labels), METRICS)
    wrong = reference_set.measure(ImageSet(pixels, (labels + 1) % 10), METRICS)
    ((ours, other),) = [pair for pair in zip(right, wrong, strict=True) if pair[0] != pair[1]]
    assert ours.metric == "class_accuracy"
    assert ours.value > 0.95
    assert other.value < 0.05


# ---- rows and floors ----------------------------------------------------------------------------


def test_every_row_has_a_floor_at_its_own_count_but_the_whole_set(measured: Measured) -> None:
    table = measured("gaussian")
    compared = ("two_sample", "recall", "precision", "coverage", "density", "kd")
    singly = ("distance_ratio", "exact_copies", "near_copies", "class_accuracy", "fd")
    expected = {(metric, "training", COUNT) for metric in compared + singly}
    expected |= {(metric, place, DRAW) for metric in compared for place in ("training", "held-out")}
    assert table.keys() == expected
    for (metric, _, count), row in table.items():
        by_draws = metric in compared and count == DRAW
        # a Frechet distance of the 360 held-out images would not be one at this count
        assert (row.floor is None) == (count == COUNT and metric in (*compared, "fd"))
        assert (row.deviation is not None) == by_draws
        assert (row.floor_deviation is not None) == by_draws
    assert next(iter(table.values())).metric == "two_sample"  # what leads stands first


def test_floors_do_not_depend_on_the_samples(measured: Measured) -> None:
    for one, other in combinations(("real", "noise", "memoriser"), 2):
        for key, row in measured(one).items():
            assert (row.floor, row.floor_deviation) == (
                measured(other)[key].floor,
                measured(other)[key].floor_deviation,
            )


def test_one_changed_pixel_is_no_exact_copy_but_a_near_one(
    reference: Reference, counting: Counting
) -> None:
    samples = memoriser(reference, num_images=60, seed=0)
    pixels = samples.pixels.clone()
    pixels[:, 4, 4] += torch.where(pixels[:, 4, 4] > 100, -8, 8).byte()  # half a level of 17
    rows = yardstick_of(reference).measure(ImageSet(pixels, samples.labels), METRICS)
    by_metric = {row.metric: row.value for row in rows}
    assert by_metric["exact_copies"] == 0.0
    assert by_metric["near_copies"] > 0.95
    assert findings(rows)[0] == COPIES


# ---- how draws are made -------------------------------------------------------------------------


def names(features: Features) -> tuple[set[int], list[int]]:
    """The kinds of set that features come from, and the numbers of their images."""
    bytes_ = np.rint(features * 255).astype(int)
    return set(bytes_[:, 0].tolist()), (bytes_[:, 1] * 256 + bytes_[:, 2]).tolist()


TRAIN, HELD_OUT, SAMPLES = 1, 2, 3


@pytest.mark.parametrize(
    ("train", "held_out", "samples", "draw"),
    [(700, 100, 330, 100), (700, 300, 330, 110), (90, 300, 330, 30), (30, 10, 30, 10)],
)
def test_draws_are_disjoint_and_shuffled(
    counting: Counting, train: int, held_out: int, samples: int, draw: int
) -> None:
    real = Reference(numbered(TRAIN, train), numbered(HELD_OUT, held_out), 0)
    rows = yardstick_of(real).measure(numbered(SAMPLES, samples), METRICS)
    whole = min(train, samples)
    assert {row.num_images for row in rows if row.metric == "two_sample"} == {whole, draw}
    calls = [(names(first), names(second)) for first, second in counting.calls]
    (first, _), *_ = calls
    assert first == ({SAMPLES}, list(range(whole)))  # in the order of generation
    expected = {
        (SAMPLES, TRAIN): 1 + DRAWS,
        (SAMPLES, HELD_OUT): DRAWS,
        (HELD_OUT, TRAIN): DRAWS,  # floors
        (TRAIN, HELD_OUT): DRAWS,
    }
    for (ours, others), times in expected.items():
        chosen = [(a, b) for (k, a), (j, b) in calls if (k, j) == ({ours}, {others})]
        assert len(chosen) == times
        drawn = [pair for pair in chosen if len(pair[0]) == draw][-DRAWS:]
        assert all(len(a) == len(b) == draw for a, b in drawn)
        for side, kind in ((0, ours), (1, others)):
            taken = [number for pair in drawn for number in pair[side]]
            if kind == HELD_OUT:
                assert taken[:draw] * DRAWS == taken  # all that there are, every time
                assert len(set(taken)) == draw
            else:
                assert len(set(taken)) == DRAWS * draw  # no image twice
    assert len(calls) == sum(expected.values())
    real_order = next(b for (_, _), (kinds, b) in calls if kinds == {TRAIN})
    assert real_order != sorted(real_order)  # or a draw would hold a few classes of a sorted list


def test_rows_are_means_and_deviations_over_draws(counting: Counting) -> None:
    """Values count up: 0.01 for the whole set, then baselines and values of three draws each."""
    assert torch.get_num_threads() == 1  # so that they are asked in order
    real = Reference(numbered(TRAIN, 90), numbered(HELD_OUT, 40), 0)
    reference_set = yardstick_of(real)
    rows = [
        r for r in reference_set.measure(numbered(SAMPLES, 90), METRICS) if r.metric == "two_sample"
    ]
    found = [(row.value, row.deviation, row.floor, row.floor_deviation) for row in rows]
    assert found[0] == (0.01, None, None, None)
    assert found[1] == pytest.approx((0.06, 0.01, 0.03, 0.01), rel=1e-9)
    assert found[2] == pytest.approx((0.12, 0.01, 0.09, 0.01), rel=1e-9)
    again = [
        r for r in reference_set.measure(numbered(SAMPLES, 90), METRICS) if r.metric == "two_sample"
    ]
    assert [row.floor for row in again] == [row.floor for row in rows]
    assert len(counting.calls) == 13 + 7  # floors are measured once


def test_the_whole_set_has_no_row_of_its_own_where_a_draw_is_all(counting: Counting) -> None:
    """Ten more training images than samples would not give another row."""
    real = Reference(numbered(TRAIN, 30), numbered(HELD_OUT, 40), 0)
    rows = yardstick_of(real).measure(numbered(SAMPLES, 300), METRICS)
    assert {(r.against, r.num_images) for r in rows if r.metric == "recall"} == {
        ("training", 30),
        ("training", 10),
        ("held-out", 10),
    }


@pytest.mark.parametrize(
    ("num_images", "train", "held_out", "expected"),
    [
        (1024, 1437, 360, 341),
        (1200, 1437, 360, 360),
        (5000, 900, 5000, 300),
        (3 * MIN_IMAGES, 3 * MIN_IMAGES, MIN_IMAGES, MIN_IMAGES),
        (3 * MIN_IMAGES - 1, 1437, 360, 0),
        (1024, 3 * MIN_IMAGES - 1, 360, 0),
        (1024, 1437, MIN_IMAGES - 1, 0),
        (0, 1437, 360, 0),
        (1024, 1437, 0, 0),
    ],
)
def test_draw_images(num_images: int, train: int, held_out: int, expected: int) -> None:
    assert draw_images(num_images, train=train, held_out=held_out) == expected


# ---- labels -------------------------------------------------------------------------------------


def test_labels_are_as_frequent_as_in_training() -> None:
    """A list of 900 images of class 0 and 100 of class 1, sorted."""
    train = ImageSet(numbered(TRAIN, 1000).pixels, (torch.arange(1000) >= 900).long())
    reference_set = yardstick_of(Reference(train, numbered(HELD_OUT, 40), 2))
    labels = reference_set.labels(2500, AS_TRAINED, 0)
    assert (labels.dtype, labels.shape) == (torch.int64, (2500,))
    assert torch.bincount(labels[:1000]).tolist() == [900, 100]
    assert torch.equal(labels[1000:2000], labels[:1000])  # then all over again
    assert torch.equal(
        reference_set.labels(70, AS_TRAINED, 0), labels[:70]
    )  # few are the first of many
    for start in (0, 200, 400):
        # drawn without replacement: less than the binomial's standard error, four of it
        share = labels[start : start + 200].float().mean().item()
        assert share == pytest.approx(0.1, abs=4 * (0.1 * 0.9 / 200) ** 0.5)


def test_labels_in_turn_and_drawn() -> None:
    reference_set = yardstick_of(
        Reference(numbered(TRAIN, 90, classes=3), numbered(HELD_OUT, 40, classes=3), 3)
    )
    assert reference_set.labels(7, BALANCED, 0).tolist() == [0, 1, 2, 0, 1, 2, 0]
    drawn = reference_set.labels(3000, RANDOM, 0)
    assert torch.equal(reference_set.labels(20, RANDOM, 0), drawn[:20])
    assert not torch.equal(reference_set.labels(20, RANDOM, 1), drawn[:20])
    # four standard errors of a binomial count
    counts = torch.bincount(drawn, minlength=3).tolist()
    assert counts == pytest.approx([1000] * 3, abs=4 * (3000 * 2 / 9) ** 0.5)


def test_classes_without_images_are_not_drawn() -> None:
    """As a list gives ids 1, 3 and 7: eight classes, of which three have images."""
    numbers = replace(numbered(TRAIN, 90), labels=torch.tensor([1, 3, 7]).repeat(30))
    reference_set = yardstick_of(
        Reference(numbers, numbered(HELD_OUT, 40), 8, absent_classes=(0, 2, 4, 5, 6))
    )
    assert reference_set.labels(5, BALANCED, 0).tolist() == [1, 3, 7, 1, 3]
    drawn = reference_set.labels(3000, RANDOM, 0)
    counts = torch.bincount(drawn, minlength=8).tolist()
    assert [counts[at] for at in (0, 2, 4, 5, 6)] == [0] * 5
    assert [counts[at] for at in (1, 3, 7)] == pytest.approx([1000] * 3, abs=110)


@pytest.mark.parametrize(("num_classes", "classified"), [(0, False), (1, False), (2, True)])
def test_classes_are_judged_where_there_are_some(num_classes: int, classified: bool) -> None:
    labels = max(1, num_classes)
    real = Reference(
        numbered(TRAIN, 200, classes=labels), numbered(HELD_OUT, 60, classes=labels), num_classes
    )
    classes = {"class_accuracy": ClassAccuracy()}
    rows = yardstick_of(real).measure(numbered(SAMPLES, 60, classes=labels), classes)
    assert [row.key for row in rows] == ["eval/class_accuracy_classifier_n60"] * classified


# ---- stops, seeds and threads -------------------------------------------------------------------


def stopping_at(question: int) -> Callable[[], None]:
    """A `check_stop` of a process that is stopped at the n-th call, and remains stopped."""
    asked = 0

    def check() -> None:
        nonlocal asked
        asked += 1
        if asked >= question:
            raise StopRequested(15)

    return check


@pytest.mark.parametrize("question", [1, 2, 4, 9])
def test_a_stop_is_heard_before_every_comparison(counting: Counting, question: int) -> None:
    real = Reference(numbered(TRAIN, 90), numbered(HELD_OUT, 40), 0)
    reference_set = yardstick_of(real, check_stop=stopping_at(question))
    with pytest.raises(StopRequested):
        reference_set.measure(numbered(SAMPLES, 90), METRICS)
    assert len(counting.calls) < question


@pytest.fixture
def small(reference: Reference, unseen: ImageSet) -> tuple[Reference, ImageSet]:
    return Reference(reference.train[:300], reference.held_out[:60], 10), unseen[:90]


def test_threads_change_nothing(
    small: tuple[Reference, ImageSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(two_sample, "TREES", 3)
    real, samples = small
    alone = yardstick_of(real).measure(samples, METRICS)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert yardstick_of(real).measure(samples, METRICS) == alone
    finally:
        torch.set_num_threads(before)


def test_the_seed_decides_draws_and_trees(
    small: tuple[Reference, ImageSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(two_sample, "TREES", 3)
    real, samples = small
    first, other = (yardstick_of(real, seed=seed).measure(samples, METRICS) for seed in (0, 1))
    differ = [a.metric for a, b in zip(first, other, strict=True) if a != b]
    assert {"two_sample", "recall"} <= set(differ)
    assert not {"distance_ratio", "exact_copies", "near_copies"} & set(differ)  # over all images


def test_too_few_images_are_the_callers_to_refuse(counting: Counting) -> None:
    real = Reference(numbered(TRAIN, 90), numbered(HELD_OUT, 40), 0)
    with pytest.raises(AssertionError, match="too few images"):
        yardstick_of(real).measure(numbered(SAMPLES, 3 * MIN_IMAGES - 1), METRICS)
