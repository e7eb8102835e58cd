"""Training batches: every image's draws depend only on (seed, sample counter)."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from dataclasses import replace
from itertools import chain, islice
from multiprocessing.connection import Connection
from time import sleep

import pytest
import torch
from torch import Tensor

from dit_lab.build.parts import Parts, validation_batches
from dit_lab.codecs.identity import Identity
from dit_lab.config.compose import compose_train
from dit_lab.core import rng
from dit_lab.core.errors import RequestError, StopRequested
from dit_lab.core.types import Batch, Shapes
from dit_lab.data.digits import Digits
from dit_lab.data.digits_facts import digits_facts
from dit_lab.objectives.ddpm import DDPM
from dit_lab.objectives.rectified_flow import RectifiedFlow
from dit_lab.training.batches import Draws, TrainingBatches
from dit_lab.training.stop import StopSignal

GLOBAL_BATCH = 16
STEPS = 3
TENSORS = [name for name in Batch.__slots__ if name not in ("draws", "images")]
Make = Callable[..., TrainingBatches]


def take(batches: TrainingBatches, steps: int = STEPS, *, first_step: int = 0) -> list[list[Batch]]:
    """The micro-batches of some steps."""
    return [list(step) for step in islice(batches.from_step(first_step), steps)]


def assert_equal(found: Batch, expected: Batch) -> None:
    """In every field, exactly."""
    for name in TENSORS:
        assert torch.equal(getattr(found, name), getattr(expected, name)), name


def by_counter(batches: Iterable[Batch]) -> dict[int, dict[str, Tensor]]:
    """Every image's fields by its sample counter; no image may come twice."""
    images: dict[int, dict[str, Tensor]] = {}
    for batch in batches:
        for place, counter in enumerate(batch.sample_counter.tolist()):
            assert counter not in images
            images[counter] = {name: getattr(batch, name)[place] for name in TENSORS}
    return images


def assert_same_images(
    found: dict[int, dict[str, Tensor]], expected: dict[int, dict[str, Tensor]]
) -> None:
    assert found.keys() == expected.keys()
    for counter, fields in expected.items():
        for name, value in fields.items():
            assert torch.equal(found[counter][name], value), (counter, name)


def test_fields_have_their_shapes_and_types(make_batches: Make) -> None:
    ((batch,),) = take(make_batches(), 1)
    expected = {
        "sample_counter": ((16,), torch.int64),
        "data": ((16, 1, 8, 8), torch.float32),
        "labels": ((16,), torch.int64),
        "noise": ((16, 1, 8, 8), torch.float32),
        "time": ((16,), torch.float32),
        "drop_label": ((16,), torch.bool),
    }
    found = {n: (tuple(getattr(batch, n).shape), getattr(batch, n).dtype) for n in TENSORS}
    assert found == expected


@pytest.mark.parametrize("num_processes", [1, 2])
@pytest.mark.parametrize("accumulation", [1, 2, 4])
def test_a_step_is_the_same_set_of_images_however_it_is_cut(
    make_batches: Make, num_processes: int, accumulation: int
) -> None:
    """Straight through an epoch's end: the digits are 1,437 and the steps begin at 1,424."""
    first_step = 89
    whole = take(make_batches(), first_step=first_step)
    processes = [
        take(
            make_batches(
                accumulation=accumulation, num_processes=num_processes, process_index=process
            ),
            first_step=first_step,
        )
        for process in range(num_processes)
    ]
    size = GLOBAL_BATCH // accumulation // num_processes
    for step in range(STEPS):
        shares = [process[step] for process in processes]
        assert [len(b.labels) for b in chain(*shares)] == [size] * accumulation * num_processes
        images = by_counter(chain(*shares))
        start = (first_step + step) * GLOBAL_BATCH
        assert set(images) == set(range(start, start + GLOBAL_BATCH))
        assert_same_images(images, by_counter(whole[step]))


@pytest.mark.parametrize("accumulation", [1, 2])
def test_starting_at_a_step_is_running_up_to_it(make_batches: Make, accumulation: int) -> None:
    batches = make_batches(accumulation=accumulation)
    straight = take(batches, 5)
    for first_step in (1, 4):
        resumed = take(batches, 5 - first_step, first_step=first_step)
        for found, expected in zip(resumed, straight[first_step:], strict=True):
            for one, other in zip(found, expected, strict=True):
                assert_equal(one, other)


@pytest.mark.parametrize(("num_workers", "accumulation"), [(1, 1), (2, 1), (1, 4), (2, 4)])
def test_workers_change_nothing(make_batches: Make, num_workers: int, accumulation: int) -> None:
    """Batches stay what they are while workers get as far ahead as they may."""
    expected = take(make_batches(accumulation=accumulation), 12)
    batches = make_batches(accumulation=accumulation, num_workers=num_workers)
    with closing(batches.from_step(0)) as steps:
        found = []
        for _ in expected:
            found.append(next(steps))
            sleep(0.05)
        for step, wanted in zip(found, expected, strict=True):
            for one, other in zip(step, wanted, strict=True):
                assert_equal(one, other)


class Refuses(Digits):
    """Digits of which image 0 cannot be read."""

    def fetch(self, indices: Tensor, counters: Tensor | None) -> tuple[Tensor, Tensor]:
        if 0 in indices.tolist():
            raise self.error
        return super().fetch(indices, counters)


@pytest.mark.parametrize("error", [RequestError("broken"), KeyError("broken")])
def test_no_worker_outlives_an_error(make_batches: Make, error: Exception) -> None:
    """Not even while the error is kept, whose traceback refers to what started them."""
    dataset = Refuses(split="train")
    dataset.error = error
    before = multiprocessing.active_children()
    with pytest.raises(type(error), match="broken") as kept:
        for _ in make_batches(dataset=dataset, num_workers=2).from_step(0):
            assert len(multiprocessing.active_children()) == len(before) + 2
    assert multiprocessing.active_children() == before
    assert (str(kept.value) == "broken") == isinstance(error, RequestError)


def test_workers_end_with_the_batches(make_batches: Make) -> None:
    before = multiprocessing.active_children()
    with closing(make_batches(num_workers=2).from_step(0)) as steps:
        next(steps)
        assert len(multiprocessing.active_children()) == len(before) + 2
    assert multiprocessing.active_children() == before


def test_a_worker_that_is_killed_ends_the_reading(make_batches: Make) -> None:
    """In one line that says so, wherever the main process is at that moment."""
    before = multiprocessing.active_children()
    steps = make_batches(num_workers=2).from_step(0)
    said = r"^DataLoader worker.* (killed by signal|exited unexpectedly)"
    with pytest.raises(RuntimeError, match=said):
        next(steps)
        worker = next(one for one in multiprocessing.active_children() if one not in before)
        os.kill(worker.pid, signal.SIGKILL)
        for _ in steps:
            sleep(0.01)
    steps.close()
    assert multiprocessing.active_children() == before


def test_workers_may_be_started_afresh(make_batches: Make) -> None:
    """Python 3.14 no longer forks by default: what workers are given must be picklable."""
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method("spawn", force=True)
    try:
        ((found,),) = take(make_batches(num_workers=1), 1)
    finally:
        multiprocessing.set_start_method(before, force=True)
    ((expected,),) = take(make_batches(), 1)
    assert_equal(found, expected)


def _load_until_told_to_stop(batches: TrainingBatches, tell: Connection) -> None:
    """Body of a process that leads a group: itself and its workers."""
    os.setsid()
    try:
        with StopSignal() as stop:
            for _ in batches.from_step(0):
                tell.send("loaded")
                stop.check()
    except BaseException as error:
        tell.send(repr(error))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_every_process_stops_the_run_only(
    make_batches: Make, number: signal.Signals
) -> None:
    """Schedulers and terminals signal the workers too; if they died of it, the run would fail."""
    context = multiprocessing.get_context("fork")
    listen, tell = context.Pipe(duplex=False)
    process = context.Process(
        target=_load_until_told_to_stop, args=(make_batches(num_workers=2), tell)
    )
    process.start()
    tell.close()
    for _ in range(2):  # workers take turns: now both are at work
        assert listen.recv() == "loaded"
    os.killpg(process.pid, number)
    told = []
    with suppress(EOFError):
        while True:
            told.append(listen.recv())
    process.join()
    assert told[-1] == repr(StopRequested(number))


def test_images_and_labels_are_those_of_the_order(make_batches: Make, digits: Digits) -> None:
    batches = make_batches()
    for (batch,) in take(batches):
        indices = batches.order.indices(batch.sample_counter)
        images, labels = digits.fetch(indices, None)
        assert torch.equal(batch.data, images)
        assert torch.equal(batch.labels, labels)


def test_times_are_the_objectives_own(make_batches: Make) -> None:
    batches = make_batches()
    ddpm = replace(
        batches, draws=replace(batches.draws, time_from_uniform=DDPM().time_from_uniform)
    )
    ((flow,), *_), ((chained,), *_) = take(batches), take(ddpm)
    uniform = rng.uniform(0, "train/time", flow.sample_counter)
    assert torch.equal(flow.time, uniform.float())
    assert torch.equal(chained.time, (uniform * 1000).long())


# ---- draws --------------------------------------------------------------------------------------


def draws(**changes: object) -> Draws:
    options = {
        "seed": 0,
        "purpose": "train",
        "latent_shape": (1, 1, 1),
        "time_from_uniform": RectifiedFlow().time_from_uniform,
        "label_drop_prob": 0.1,
    }
    return Draws(**(options | changes))


def drawn(count: int, **changes: object) -> Batch:
    images, labels = torch.zeros(count, 1, 1, 1), torch.zeros(count, dtype=torch.int64)
    return draws(**changes).batch(images, labels, torch.arange(count)).batch


@pytest.mark.parametrize("prob", [0.1, 0.5])
def test_labels_drop_at_the_asked_rate(prob: float) -> None:
    count = 20_000
    found = drawn(count, label_drop_prob=prob).drop_label.double().mean().item()
    # the seed is fixed; five standard errors would be missed by one seed in two million
    assert abs(found - prob) < 5 * (prob * (1 - prob) / count) ** 0.5


def test_labels_drop_never_or_always_where_that_is_asked() -> None:
    assert not drawn(5_000, label_drop_prob=0.0).drop_label.any()
    assert drawn(5_000, label_drop_prob=1.0).drop_label.all()


def test_purposes_seeds_and_fields_have_streams_of_their_own() -> None:
    """Noise, times and drops neither repeat between purposes and seeds nor follow each other."""
    count = 2_000
    batches = [drawn(count), drawn(count, purpose="validation"), drawn(count, seed=1)]
    fields = [
        column.double()
        for batch in batches
        for column in (batch.noise.flatten(), batch.time, batch.drop_label)
    ]
    correlation = torch.corrcoef(torch.stack(fields)) - torch.eye(9)
    assert correlation.abs().max() < 5 / count**0.5  # 36 pairs, five standard errors each


class AddsPosteriorNoise(Identity):
    """A codec whose latents are the pixels plus the noise that it is given."""

    draws = True

    def encode(self, images: Tensor, noise: Tensor | None) -> Tensor:
        assert noise is not None
        return images + noise


def test_the_codec_is_given_a_stream_of_its_own(make_batches: Make) -> None:
    batches = make_batches(accumulation=2)
    plain = take(batches)
    drawing = replace(batches.draws, posterior=True)
    encoded = take(make_batches(accumulation=2, codec=AddsPosteriorNoise(), draws=drawing))
    for one, other in zip(chain(*encoded), chain(*plain), strict=True):
        noise = rng.normal(0, "train/posterior", one.sample_counter, (1, 8, 8))
        assert torch.equal(one.data, other.data + noise)
        assert torch.equal(one.noise, other.noise)


class RemembersCounters(Digits):
    """Digits whose pixels are the counters that augmentation is seeded with."""

    def fetch(self, indices: Tensor, counters: Tensor | None) -> tuple[Tensor, Tensor]:
        images, labels = super().fetch(indices, counters)
        shown = torch.full_like(indices, -1) if counters is None else counters
        return shown.float().reshape(-1, 1, 1, 1).expand_as(images), labels


def test_augmentation_is_seeded_by_the_counter_in_training_only(make_batches: Make) -> None:
    dataset = RemembersCounters(split="train")
    for step in take(make_batches(dataset=dataset, accumulation=2)):
        for batch in step:
            assert torch.equal(batch.data[:, 0, 0, 0], batch.sample_counter.float())
    assert all((batch.data == -1).all() for batch in held_out(dataset))


# ---- validation ---------------------------------------------------------------------------------


def held_out(dataset: Digits, *, loss_images: int = 200) -> list[Batch]:
    facts = digits_facts()
    parts = Parts(
        config=compose_train(["experiment=quickstart", f"evaluation.loss_images={loss_images}"]),
        shapes=Shapes(facts, (facts.channels, facts.height, facts.width)),
        objective=RectifiedFlow(),
        codec=Identity(),
        device=torch.device("cpu"),
    )
    batches = validation_batches(parts, dataset=dataset, codec=Identity())
    first, again = ([make() for make in batches] for _ in range(2))
    for one, other in zip(first, again, strict=True):
        assert_equal(one, other)
    return first


def test_validation_is_spread_over_the_split(held_out_digits: Digits) -> None:
    """Evenly, in order, no label dropped, no more images than there are."""
    for asked, count in ((200, 200), (10_000, 360)):
        batches = held_out(held_out_digits, loss_images=asked)
        indices = torch.arange(count) * 360 // count
        images, labels = held_out_digits.fetch(indices, None)
        assert torch.equal(torch.cat([batch.sample_counter for batch in batches]), indices)
        assert torch.equal(torch.cat([batch.data for batch in batches]), images)
        assert torch.equal(torch.cat([batch.labels for batch in batches]), labels)
        assert not torch.cat([batch.drop_label for batch in batches]).any()


def test_validation_and_training_draw_apart(make_batches: Make, held_out_digits: Digits) -> None:
    ((trained,), *_) = take(make_batches())
    validated = held_out(held_out_digits, loss_images=360)[0]
    assert torch.equal(trained.sample_counter, validated.sample_counter[:16])
    assert not (trained.noise == validated.noise[:16]).any()
    assert not (trained.time == validated.time[:16]).any()
