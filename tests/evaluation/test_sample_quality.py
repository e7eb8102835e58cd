"""Evaluation of samples: intervals of metrics, several seeds, and resumption after a stop."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dit_lab.actions.drawing_progress import DrawingProgress
from dit_lab.codecs.identity import Identity
from dit_lab.core.errors import StopRequested
from dit_lab.core.types import ImageSet
from dit_lab.evaluation import sample_quality
from dit_lab.evaluation.card import Card, read_evaluation
from dit_lab.evaluation.features.extractors import Pixels
from dit_lab.evaluation.metrics.components import Memorisation, PrecisionRecall
from dit_lab.evaluation.quality import AS_TRAINED, ReferenceSet
from dit_lab.evaluation.reference import Reference
from dit_lab.evaluation.sample_quality import SampleQuality
from dit_lab.objectives.rectified_flow import RectifiedFlow
from dit_lab.samplers.guidance import Guidance
from dit_lab.samplers.ode import Euler
from dit_lab.sampling.generate import CHUNK_IMAGES, Generator

COUNT = 3 * CHUNK_IMAGES
CARD = Card(
    samples="generated", run="0123456789ab", step=0, weights="ema-0.9", objective={}, sampler={},
    evaluations_per_image=0, guidance={}, num_images=COUNT, labels=AS_TRAINED, seed=0, num_seeds=1,
    metrics={"near": {}, "like": {}}, metrics_seed=0, reference={}, features={}, likelihood=None,
    codec="identity", chunk_images=CHUNK_IMAGES, dtype="float32", device="x86_64", num_threads=1,
    code={}, versions={},
)  # fmt: skip


class Model:
    """A velocity that depends on image and label; counts the evaluated images."""

    def __init__(self) -> None:
        self.images = 0

    def __call__(self, x: Tensor, time: Tensor, labels: Tensor) -> Tensor:
        self.images += len(x)
        return torch.tanh(x + labels.view(-1, 1, 1, 1))


def images(seed: int, count: int) -> ImageSet:
    draw = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 4, 4, 1), generator=draw).byte()
    return ImageSet(pixels, torch.arange(count) % 3)


def quality(folder: Path, **changes: Any) -> SampleQuality:
    generator = Generator(
        objective=RectifiedFlow(), sampler=Euler(steps=2), guidance=Guidance(), codec=Identity(),
        latent_shape=(1, 4, 4), num_classes=3, null_label=3, levels=256,
        device=torch.device("cpu"),
    )  # fmt: skip

    def reference_set() -> ReferenceSet:
        return ReferenceSet(
            Reference(images(0, 90), images(1, 40), 3),
            seed=0,
            extractors={"pixels": Pixels()},
            statistics=lambda extractor: pytest.fail("no metric asks for them"),
            folder=None,
        )

    options: dict[str, Any] = {
        "generator": generator,
        "build_reference_set": reference_set,
        "metrics": {"near": Memorisation("pixels"), "like": PrecisionRecall("pixels")},
        "metrics_every_steps": {"near": 20, "like": 50},
        "total_steps": 110,
        "folder": folder,
        "card": CARD,
    }
    return SampleQuality(**(options | changes))


def metrics_of(found: Any) -> set[str]:
    return {name.partition("_pixels")[0].partition("_bytes")[0] for name in found.metrics}


NEAR = {"eval/distance_ratio", "eval/exact_copies", "eval/near_copies"}
LIKE = {"eval/recall", "eval/precision"}


@pytest.mark.parametrize(
    ("step", "expected"),
    [(10, set()), (20, NEAR), (50, LIKE), (100, NEAR | LIKE), (110, NEAR | LIKE)],
)
def test_each_metric_has_its_own_cadence(tmp_path: Path, step: int, expected: set[str]) -> None:
    evaluator = quality(tmp_path)
    assert evaluator.every_steps == 10
    model = Model()
    found = evaluator.run(model, step)
    assert metrics_of(found) == expected
    assert model.images == (2 * COUNT if expected else 0)  # drawn once for all that are due
    for file in found.artifacts:
        card = read_evaluation(file).card
        assert (card.step, len(card.metrics)) == (step, {3: 1, 2: 1, 5: 2}[len(expected)])


def test_at_the_end_alone(tmp_path: Path) -> None:
    evaluator = quality(tmp_path, metrics_every_steps={"near": 0, "like": 0})
    assert evaluator.every_steps == 0
    assert evaluator.run(Model(), 100).metrics == {}
    assert metrics_of(evaluator.run(Model(), 110)) == NEAR | LIKE


def test_several_seeds(tmp_path: Path) -> None:
    """The mean of what each of them gives alone, with deviation and minimum."""
    single = [
        quality(tmp_path / str(seed), card=replace(CARD, seed=seed)).evaluate(Model(), 5)[0]
        for seed in (4, 5)
    ]
    many, file = quality(
        tmp_path, card=replace(CARD, seed=4, num_seeds=2)
    ).evaluate(Model(), 5)  # fmt: skip
    assert read_evaluation(file) == many
    for row, first, second in zip(many.rows, single[0].rows, single[1].rows, strict=True):
        assert row.value == pytest.approx((first.value + second.value) / 2, rel=1e-12)
        assert row.minimum == min(first.value, second.value)
        assert row.deviation == pytest.approx(abs(first.value - second.value) / 2**0.5, abs=1e-12)
        assert row.floor == first.floor
    assert {row.value for row in single[0].rows} != {row.value for row in single[1].rows}


@pytest.fixture
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_quality, "GROUP_IMAGES", CHUNK_IMAGES)


def stopping_at(question: int) -> Callable[[], None]:
    asked = 0

    def check() -> None:
        nonlocal asked
        asked += 1
        if asked == question:
            raise StopRequested(15)

    return check


@pytest.mark.usefixtures("small_groups")
def test_what_was_drawn_before_a_stop_is_not_drawn_again(tmp_path: Path) -> None:
    expected, _ = quality(tmp_path / "straight").evaluate(Model(), 5)
    evaluator, model, heard = quality(tmp_path / "stopped"), Model(), []
    stopped = replace(evaluator.generator, check_stop=stopping_at(6))  # in the third chunk
    with pytest.raises(StopRequested):
        replace(evaluator, generator=stopped).evaluate(model, 5)
    assert model.images == 3 * 2 * CHUNK_IMAGES
    again = Model()
    found, file = replace(evaluator, on_drawn=lambda *of: heard.append(of)).evaluate(again, 5)
    assert again.images == 2 * CHUNK_IMAGES
    assert found == expected
    assert heard == [(COUNT, COUNT)]
    assert [left.name for left in (tmp_path / "stopped").iterdir()] == [file.name]


@pytest.mark.usefixtures("small_groups")
def test_images_of_another_question_are_not_taken(tmp_path: Path) -> None:
    """With other weights, another seed or other labels, stored images are not reused."""
    evaluator = quality(tmp_path)
    with pytest.raises(StopRequested):
        stopped = replace(evaluator.generator, check_stop=stopping_at(5))
        replace(evaluator, generator=stopped).evaluate(Model(), 5)
    for change in ({"weights": "model"}, {"seed": 1}, {"labels": "all classes in turn"}):
        model = Model()
        replace(evaluator, card=replace(CARD, **change)).evaluate(model, 5)
        assert model.images == 2 * COUNT


def test_progress_is_said_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, said = [0.0], []
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    progress = DrawingProgress(said.append)
    for second, done in ((2, 256), (4, 512), (12, 1280), (13, 1536), (24, 2816), (25, 3000)):
        clock[0] = float(second)
        progress(done, 3000)
    # 128 images a second since the first were there
    assert said == [
        "1,280 of 3,000 images are drawn, 17 s left",
        "2,816 of 3,000 images are drawn, 2 s left",
    ]
