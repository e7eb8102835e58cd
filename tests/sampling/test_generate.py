"""Sampling: image i depends on (seed, i, its label), not on the number or order of images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from dit_lab.codecs.identity import Identity
from dit_lab.core import rng
from dit_lab.core.errors import Diverged, RequestError, StopRequested
from dit_lab.core.types import DrawNoise, LabelledCall, Predict
from dit_lab.models.dit import DiT
from dit_lab.objectives.ddpm import DDPM
from dit_lab.objectives.rectified_flow import RectifiedFlow
from dit_lab.samplers.ancestral import DDPMSampler
from dit_lab.samplers.guidance import Guidance
from dit_lab.samplers.ode import Euler, Heun
from dit_lab.sampling.generate import CHUNK_IMAGES, EvaluationCount, Generator
from dit_lab.sampling.images import to_uint8

STEPS = 3
Make = Callable[..., DiT]


def generator(**changes: Any) -> Generator:
    options = {
        "objective": RectifiedFlow(),
        "sampler": Euler(steps=STEPS),
        "guidance": Guidance(),
        "codec": Identity(),
        "latent_shape": (1, 8, 8),
        "num_classes": 10,
        "null_label": 10,
        "levels": 256,
        "device": torch.device("cpu"),
    }
    return Generator(**(options | changes))


WAYS: dict[str, dict[str, Any]] = {
    "ode": {},
    "ancestral": {"objective": DDPM(learn_sigma=False), "sampler": DDPMSampler(steps=STEPS)},
    "guided": {"guidance": Guidance(scale=2.0)},
}


@pytest.fixture(scope="module")
def model(make_model: Make) -> DiT:
    return make_model(perturbed=True).eval()


def draw(model: LabelledCall, num_images: int, way: str = "ode", **options: Any) -> Tensor:
    groups = generator(**WAYS[way]).images(model, **{"seed": 0, **options}, num_images=num_images)
    return torch.cat([images for images, _ in groups])


@pytest.mark.parametrize("way", WAYS)
def test_few_images_are_the_first_of_many(model: DiT, way: str) -> None:
    many = draw(model, 70, way)
    assert (many.shape, many.dtype) == ((70, 8, 8, 1), torch.uint8)
    for count in (1, 10, 32, 33):
        assert torch.equal(draw(model, count, way), many[:count])
    assert len(many.flatten(1).unique(dim=0)) == 70  # and they are not all alike


@pytest.mark.parametrize("way", WAYS)
def test_batch_size_changes_no_image(model: DiT, way: str) -> None:
    expected = draw(model, 70, way)
    for batch_size in (1, 7, 64, 1000):
        assert torch.equal(draw(model, 70, way, batch_size=batch_size), expected)


def test_a_hundred_images_are_the_first_of_a_thousand(model: DiT) -> None:
    """As evaluations of different sizes draw them: labels of the data, in its own order."""
    labels = rng.permutation(0, "labels", 0, 1437).remainder(10).tolist()
    drawn = {
        (count, batch_size): draw(model, count, labels=labels[:count], batch_size=batch_size)
        for count, batch_size in ((100, 7), (100, 64), (1000, 7), (1000, 64))
    }
    thousand = drawn[1000, 7]
    assert len(thousand) == 1000
    assert torch.equal(drawn[1000, 64], thousand)
    assert torch.equal(drawn[100, 7], thousand[:100])
    assert torch.equal(drawn[100, 64], thousand[:100])


@pytest.mark.parametrize("way", WAYS)
def test_digits_have_the_brightnesses_of_digits(model: DiT, way: str) -> None:
    """17 of them, so that no test can tell samples from digits by what a byte can be."""
    groups = generator(**WAYS[way], levels=17).images(model, num_images=64, seed=0)
    images = torch.cat([images for images, _ in groups])
    found = set(images.unique().tolist())
    assert found <= {round(k * 255 / 16) for k in range(17)}
    assert len(found) > 5  # and not black and white alone
    whole = draw(model, 64, way)  # in 256 levels
    # half a level of the coarser ladder, and half a byte of each rounding
    assert (images.int() - whole.int()).abs().max() <= 255 / 16 / 2 + 1


def test_the_seed_matters(model: DiT) -> None:
    first, second = draw(model, 4), draw(model, 4, seed=1)
    assert all(not torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(
    ("batch_size", "sizes"), [(7, [32, 32, 6]), (64, [64, 6]), (33, [64, 6]), (1000, [70])]
)
def test_groups_are_whole_chunks(model: DiT, batch_size: int, sizes: list[int]) -> None:
    groups = list(generator().images(model, num_images=70, seed=0, batch_size=batch_size))
    assert [len(images) for images, _ in groups] == sizes
    assert [len(labels) for _, labels in groups] == sizes


class Recording:
    """A model whose output is its label; keeps the batches that it was given."""

    def __init__(self) -> None:
        self.calls: list[tuple[Tensor, Tensor, Tensor]] = []

    def __call__(self, x: Tensor, time: Tensor, labels: Tensor) -> Tensor:
        self.calls.append((x, time, labels))
        return labels.float().reshape(-1, 1, 1, 1).expand_as(x)


@pytest.mark.parametrize(
    ("asked", "cycle"), [(None, range(10)), ([], range(10)), ([7, 2, 2], [7, 2, 2]), ([0], [0])]
)
def test_labels_cycle_over_groups(asked: list[int] | None, cycle: Any) -> None:
    """The model is given the labels that come back with the images, and noise of the index."""
    expected = torch.tensor([list(cycle)[index % len(cycle)] for index in range(70)])
    groups = generator().images(model := Recording(), num_images=70, seed=3, labels=asked)
    found = torch.cat([labels for _, labels in groups])
    assert torch.equal(found, expected)
    assert found.dtype == torch.int64
    first_steps = model.calls[::STEPS]
    given = torch.cat([labels for _, _, labels in first_steps])
    assert torch.equal(given[:70], expected)
    assert {len(x) for x, _, _ in model.calls} == {CHUNK_IMAGES}  # the surplus is computed too
    noise = rng.normal(3, "sample/noise", torch.arange(96), (1, 8, 8))
    assert torch.equal(torch.cat([x for x, _, _ in first_steps]), noise)


def test_an_unconditional_model_is_given_zeros() -> None:
    groups = generator(num_classes=0, null_label=None).images(
        model := Recording(), num_images=5, seed=0
    )
    assert [labels.tolist() for _, labels in groups] == [[0] * 5]
    assert not model.calls[0][2].any()


def test_guidance_asks_with_the_null_label_too() -> None:
    guided = generator(guidance=Guidance(scale=2.0))
    list(guided.images(model := Recording(), num_images=3, seed=0, labels=[4]))
    labels = model.calls[0][2]
    assert labels.tolist() == [4] * CHUNK_IMAGES + [10] * CHUNK_IMAGES


def test_a_model_that_never_saw_labels_dropped_is_not_guided() -> None:
    list(generator(null_label=None).images(model := Recording(), num_images=3, seed=0))
    assert {len(x) for x, _, _ in model.calls} == {CHUNK_IMAGES}
    guided = generator(null_label=None, guidance=Guidance(scale=2.0))
    with pytest.raises(RequestError, match="no null label"):
        list(guided.images(model, num_images=3, seed=0))


def test_the_euler_path_in_closed_form() -> None:
    """A constant velocity v carries noise to noise + v: here v is the label."""
    ((images, labels),) = generator().images(Recording(), num_images=20, seed=5)
    noise = rng.normal(5, "sample/noise", torch.arange(20), (1, 8, 8))
    expected = to_uint8(noise + labels.reshape(-1, 1, 1, 1))
    # three float32 steps of a third may round to the neighbouring byte
    assert (images.int() - expected.int()).abs().max() <= 1


class KeepsNoise:
    """A sampler that returns its start and keeps what it was given and could draw."""

    steps = STEPS

    def __init__(self) -> None:
        self.drawn: list[Tensor] = []

    def sample(
        self, predict: Predict, noise: Tensor, *, draw_noise: DrawNoise, **_: object
    ) -> Tensor:
        self.drawn += [noise, *(draw_noise(step) for step in range(self.steps))]
        return noise


def test_each_step_of_a_sampler_draws_anew() -> None:
    """The start and every step have streams of their own, image by image."""
    list(generator(sampler=(kept := KeepsNoise())).images(Recording(), num_images=64, seed=0))
    streams = torch.stack([noise.flatten() for noise in kept.drawn]).double()
    assert streams.shape == (2 * (1 + STEPS), CHUNK_IMAGES * 64)  # of two chunks
    correlation = torch.corrcoef(streams) - torch.eye(len(streams))
    assert correlation.abs().max() < 5 / streams.shape[1] ** 0.5  # 28 pairs, five standard errors
    again = KeepsNoise()
    list(generator(sampler=again).images(Recording(), num_images=64, seed=0, batch_size=64))
    assert torch.equal(torch.stack(kept.drawn), torch.stack(again.drawn))


class StopsAfter:
    """`check_stop` of a process that is told to stop at the n-th question."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __call__(self) -> None:
        self.count -= 1
        if self.count == 0:
            raise StopRequested(15)


@pytest.mark.parametrize("question", [1, 2, STEPS + 1])
def test_a_stop_ends_the_drawing_between_two_steps(question: int) -> None:
    stopping = generator(check_stop=StopsAfter(question))
    groups = stopping.images(model := Recording(), num_images=70, seed=0)
    with pytest.raises(StopRequested):
        list(groups)
    assert len(model.calls) == question


class RecordsGradients(Identity):
    """A codec that keeps whether gradients were recorded when it decoded."""

    def __init__(self) -> None:
        self.recorded: list[bool] = []

    def decode(self, latents: Tensor) -> Tensor:
        self.recorded.append(latents.requires_grad or torch.is_grad_enabled())
        return latents


def test_no_gradients_are_recorded(model: DiT) -> None:
    """Neither in the sampler nor in the codec; a graph over all steps would fill the memory."""
    codec = RecordsGradients()
    list(generator(codec=codec).images(model, num_images=40, seed=0))
    assert codec.recorded == [False, False]


# ---- what it costs ------------------------------------------------------------------------------


def weak(x: Tensor, time: Tensor, labels: Tensor) -> Tensor:
    return 0.5 * x


CHAINED = {"objective": DDPM(learn_sigma=False)}
THIRDS = Guidance(scale=2.0, interval=(0.3, 0.5))  # of the times 0, 1/3 and 2/3 one
COSTS: dict[str, tuple[dict[str, Any], int]] = {
    "off": ({}, STEPS),
    "guided": ({"guidance": Guidance(scale=2.0)}, 2 * STEPS),
    "guided for a while": ({"guidance": THIRDS}, STEPS + 1),
    "guided never": ({"guidance": Guidance(scale=2.0, interval=(0.9, 1.0))}, STEPS),
    "weak": ({"guidance": Guidance(scale=2.0), "weak": weak}, 2 * STEPS),
    "weak for a while": ({"guidance": THIRDS, "weak": weak}, STEPS + 1),
    "weak without a null label": (
        {"guidance": Guidance(scale=2.0), "weak": weak, "null_label": None}, 2 * STEPS,
    ),
    "weak at scale 1": ({"weak": weak}, STEPS),
    "two a step": ({"sampler": Heun(steps=STEPS)}, 2 * STEPS),
    "two a step, guided": (
        {"sampler": Heun(steps=STEPS), "guidance": Guidance(scale=2.0)}, 4 * STEPS,
    ),
    # what noise the chain leaves at its end is removed by one prediction more
    "noise left": (CHAINED, STEPS + 1),
    "ancestral": ({**CHAINED, "sampler": DDPMSampler(steps=STEPS)}, STEPS),
}  # fmt: skip


@pytest.mark.parametrize("num_images", [1, 32, 70])
@pytest.mark.parametrize("way", COSTS)
def test_evaluations_of_an_image(way: str, num_images: int) -> None:
    """A whole number, whatever part of the last chunk is thrown away."""
    changes, expected = COSTS[way]
    passes = EvaluationCount()
    list(generator(**changes).images(Recording(), num_images=num_images, seed=0, on_pass=passes))
    assert passes.per_image(num_images) == expected


def test_every_chunk_is_told_with_its_passes() -> None:
    """Of two chunks of 32; guidance by the null label or by a weak model takes two passes."""
    told: dict[str, list[int]] = {}
    for way in ("guided", "weak"):
        told[way] = []
        groups = generator(**COSTS[way][0]).images(
            model := Recording(), num_images=40, seed=0, batch_size=64, on_pass=told[way].append
        )
        assert sum(len(images) for images, _ in groups) == 40
        assert len(model.calls) == 2 * STEPS
    assert told == {"guided": [64 * STEPS] * 2, "weak": [64 * STEPS] * 2}


def test_counting_changes_no_image(model: DiT) -> None:
    for way in ("ode", "guided"):
        assert torch.equal(draw(model, 40, way, on_pass=EvaluationCount()), draw(model, 40, way))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_images_that_are_not_finite_are_no_images(model: DiT, value: float) -> None:
    """Bytes would show them as black or white."""

    def call(x: Tensor, time: Tensor, labels: Tensor) -> Tensor:
        found = model(x, time, labels)
        found[labels == 3] = value
        return found

    with pytest.raises(Diverged) as found:
        draw(call, 70)
    assert str(found.value) == (
        "diverged: 3 of the generated images 0 to 31 have values that are not finite. Try another "
        "sampler, or weights of an earlier step"
    )
    with pytest.raises(Diverged, match=r"Try a guidance\.scale nearer to 1, another sampler"):
        draw(call, 70, "guided")


def test_classes_without_images_are_drawn_where_asked_for() -> None:
    some = generator(num_classes=6, absent_classes=(0, 3, 5))
    assert some.labels(torch.arange(5), None).tolist() == [1, 2, 4, 1, 2]
    assert some.labels(torch.arange(3), [3, 0]).tolist() == [3, 0, 3]
    assert generator(num_classes=0).labels(torch.arange(2), None).tolist() == [0, 0]
