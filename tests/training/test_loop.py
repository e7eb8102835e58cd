"""The training loop: interrupted runs give the same bits, and bad steps do no harm.

The components are real and small: a DiT of width 16, the digits, fused AdamW.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from dit_lab.core.errors import Diverged, StopRequested
from dit_lab.core.process_group import SINGLE_PROCESS
from dit_lab.core.types import (
    Batch,
    EvaluationResult,
    Hook,
    LabelledCall,
    ModelCall,
    Objective,
    Schedule,
)
from dit_lab.models.dit import DiT
from dit_lab.objectives.rectified_flow import RectifiedFlow
from dit_lab.training.batches import TrainingBatches
from dit_lab.training.checkpoint_store import CheckpointStore
from dit_lab.training.ema import EMA
from dit_lab.training.loop import LoopSettings, train
from dit_lab.training.optimizers.state import optimizer_tensors
from dit_lab.training.parallel import Whole
from dit_lab.training.schedules import Constant, Cosine
from dit_lab.training.snapshots import Snapshots

TOTAL_STEPS = 8
NULL_LABEL = 10
GLOBAL_BATCH = 16
FUSED_ADAMW = partial(AdamW, lr=0.01, fused=True)
SCHEDULE = Cosine(warmup_steps=2, final_factor=0.1)
LONG: dict[str, Any] = {"total_steps": 100}  # of which a few may be skipped

Row = tuple[int, dict[str, float]]


class Recorder(Hook):
    """Keeps what a run says of itself."""

    def __init__(self) -> None:
        self.started: list[tuple[int, int]] = []
        self.steps: list[int] = []
        self.rows: list[Row] = []
        self.artifacts: list[tuple[int, Path]] = []
        self.messages: list[str] = []

    def on_start(self, *, first_step: int, total_steps: int) -> None:
        self.started.append((first_step, total_steps))

    def on_step(self, step: int) -> None:
        self.steps.append(step)

    def on_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        self.rows.append((step, dict(metrics)))

    def on_artifact(self, step: int, path: Path) -> None:
        self.artifacts.append((step, path))

    def on_message(self, text: str) -> None:
        self.messages.append(text)

    def on_end(self, *, status: str, step: int, error: str | None) -> None:
        raise AssertionError("who calls the loop says how it ended")

    def timeless(self) -> list[Row]:
        """The rows without what a clock decides."""
        return [
            (step, {name: v for name, v in row.items() if not name.startswith("perf/")})
            for step, row in self.rows
        ]


@dataclass
class Probe:
    """An evaluator: the mean output of the model that it is given, on fixed inputs."""

    every_steps: int
    name: str = "probe"
    check_stop: Callable[[], None] = lambda: None
    outputs: list[Tensor] = field(default_factory=list)
    modes: list[tuple[bool, bool]] = field(default_factory=list)  # training, gradients

    def run(self, model: LabelledCall, step: int) -> EvaluationResult:
        self.check_stop()
        self.outputs.append(model(*probe_inputs()))
        assert isinstance(model, nn.Module)
        self.modes.append((model.training, torch.is_grad_enabled()))
        mean = self.outputs[-1].mean().item()
        return EvaluationResult({f"eval/{self.name}": mean}, (Path(f"{self.name}-{step}.png"),))


def probe_inputs() -> tuple[Tensor, Tensor, Tensor]:
    x = torch.randn(10, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    return x, torch.linspace(0, 1000, 10), torch.arange(10)


class BadAt:
    """Rectified flow whose loss is not finite at some steps."""

    def __init__(self, steps: Sequence[int], value: float = torch.nan) -> None:
        self._flow = RectifiedFlow()
        self._steps, self._value = steps, value

    def __getattr__(self, name: str) -> Any:
        return getattr(self._flow, name)

    def loss(self, predict: ModelCall, batch: Batch) -> dict[str, Tensor]:
        terms = self._flow.loss(predict, batch)
        step = batch.sample_counter // GLOBAL_BATCH  # of each image, counted from 0
        bad = torch.isin(step, torch.tensor(self._steps))
        return {name: term + torch.where(bad, self._value, 0.0) for name, term in terms.items()}


class Steep(RectifiedFlow):
    """Whose finite gradients, times the largest learning rate, are none."""

    def loss(self, predict: ModelCall, batch: Batch) -> dict[str, Tensor]:
        return {name: term * 1e6 for name, term in super().loss(predict, batch).items()}


class OnlyAt:
    """A schedule that is 0 but at one step."""

    def __init__(self, step: int) -> None:
        self._step = step

    def factor(self, step: int, total_steps: int) -> float:
        return float(step == self._step)


class FailsAt(BadAt):
    """An objective that dies at some steps, as a dataset on a lost file server would."""

    def loss(self, predict: ModelCall, batch: Batch) -> dict[str, Tensor]:
        if batch.sample_counter[0] // GLOBAL_BATCH in self._steps:
            raise OSError("file server away")
        return super().loss(predict, batch)


class StopAt:
    """`check_stop` of a process that is told to stop after so many finished steps."""

    def __init__(self, step: int | None, recorder: Recorder) -> None:
        self._step, self._recorder = step, recorder

    def __call__(self) -> None:
        first_step, _ = self._recorder.started[-1]
        if self._step == max([first_step, *self._recorder.steps]):
            raise StopRequested(15)


@dataclass
class Run:
    """One call of `train` and everything that it left behind."""

    model: DiT
    optimizer: Optimizer
    emas: list[EMA]
    recorder: Recorder
    store: CheckpointStore
    results: dict[str, float] | None = None  # None where it was stopped

    def tensors(self) -> dict[str, Tensor]:
        """All that decides how training would go on."""
        names = {weight: name for name, weight in self.model.named_parameters()}
        found = {f"model/{name}": weight for weight, name in names.items()}
        for ema in self.emas:
            found |= {f"{ema.name}/{name}": shadow for name, shadow in ema.shadow.items()}
            found[f"{ema.name} updates"] = ema.num_updates
        state = optimizer_tensors(self.optimizer, names)
        return found | {f"optimizer/{name}": tensor for name, tensor in state.items()}


def assert_same(found: Run, expected: Run) -> None:
    """Equal in every bit: weights, averages, optimizer."""
    left, right = found.tensors(), expected.tensors()
    assert left.keys() == right.keys()
    for name in right:
        assert torch.equal(left[name], right[name]), name


Start = Callable[..., Run]


@pytest.fixture
def start(
    make_model: Callable[..., DiT], make_batches: Callable[..., TrainingBatches], tmp_path: Path
) -> Start:
    """Trains in a folder under tmp_path, from its newest checkpoint where it has one."""

    def run(
        folder: str = "run",
        *,
        total_steps: int = TOTAL_STEPS,
        stop_at: int | None = None,
        accumulation: int = 1,
        objective: Objective | None = None,
        make_optimizer: Callable[[list[Tensor]], Optimizer] = FUSED_ADAMW,
        schedule: Schedule = SCHEDULE,
        evaluators: Sequence[Probe] = (),
        stop_in_evaluation: bool = False,
        **settings: Any,
    ) -> Run:
        model = make_model()
        accelerator = Accelerator(cpu=True)
        optimizer = make_optimizer([w for w in model.parameters() if w.requires_grad])
        weights = dict(model.named_parameters())
        emas = [EMA(weights, decay=decay, warmup=True) for decay in (0.9, 0.2)]
        recorder = Recorder()
        check_stop = StopAt(stop_at, recorder)
        for probe in evaluators:
            if stop_in_evaluation:
                probe.check_stop = check_stop
        store = CheckpointStore(tmp_path / folder, run="here", warn=pytest.fail)
        (tmp_path / folder).mkdir(exist_ok=True)
        defaults = {
            "clip_norm": 1.0,
            "log_every_steps": 3,
            "checkpoint_every_steps": 0,
            "max_skipped_in_a_row": 3,
            "images_per_epoch": 1437,
        }
        done = Run(model, optimizer, emas, recorder, store)
        try:
            done.results = train(
                accelerator=accelerator,
                process_group=SINGLE_PROCESS,
                model=Whole(model, accelerator),
                null_label=NULL_LABEL,
                objective=objective or RectifiedFlow(),
                batches=make_batches(accumulation=accumulation),
                optimizer=optimizer,
                schedule=schedule,
                emas=emas,
                snapshots=Snapshots(None, averages=[], every_steps=0),
                checkpoints=store,
                resume_from=store.latest(),
                evaluators=evaluators,
                hooks=[recorder],
                settings=LoopSettings(total_steps=total_steps, **(defaults | settings)),
                check_stop=(lambda: None) if stop_in_evaluation else check_stop,
            )
        except StopRequested:
            assert stop_at is not None
        return done

    return run


# ---- interruption -------------------------------------------------------------------------------


@pytest.mark.parametrize("stops", [[0], [1], [3], [4], [7], [2, 2, 5, 6]], ids=str)
def test_stopped_and_resumed_ends_in_the_same_bits(start: Start, stops: list[int]) -> None:
    """Every logged row too: the window is 3 steps long, so most stops cut one in two."""
    straight = start("straight", evaluators=[Probe(every_steps=4)])
    pieces = [start(stop_at=stop, evaluators=[Probe(every_steps=4)]) for stop in stops]
    pieces.append(start(evaluators=[Probe(every_steps=4)]))
    assert all(piece.results is None for piece in pieces[:-1])
    assert pieces[-1].results == straight.results
    assert_same(pieces[-1], straight)
    rows = [row for piece in pieces for row in piece.recorder.timeless()]
    assert rows == straight.recorder.timeless()
    assert [step for piece in pieces for step in piece.recorder.steps] == list(range(1, 9))


def test_a_failed_run_goes_on_from_its_newest_checkpoint(start: Start) -> None:
    """It saves nothing when it dies; the steps that are done again are the same steps."""
    straight = start("straight")
    with pytest.raises(OSError, match="file server"):
        start(objective=FailsAt([5]), checkpoint_every_steps=2)
    resumed = start()
    assert resumed.recorder.steps == [5, 6, 7, 8]
    assert_same(resumed, straight)
    assert resumed.results == straight.results


@pytest.mark.parametrize(
    "schedule", [Constant(warmup_steps=2), SCHEDULE], ids=["constant", "cosine"]
)
@pytest.mark.parametrize("first_total", [5, 6])
def test_more_steps_after_the_end_are_the_longer_training_if_the_schedule_allows(
    start: Start, schedule: Schedule, first_total: int
) -> None:
    straight = start("straight", schedule=schedule)
    start(total_steps=first_total, schedule=schedule)
    longer = start(schedule=schedule)
    assert longer.recorder.steps == list(range(first_total + 1, 9))
    if schedule.depends_on_end:
        with pytest.raises(AssertionError):
            assert_same(longer, straight)
    else:
        assert_same(longer, straight)


def test_saves_are_due_at_multiples_and_at_the_end(start: Start) -> None:
    done = start(checkpoint_every_steps=3)
    folder = done.store._folder
    assert sorted(path.name for path in folder.iterdir()) == [
        f"step-{step:08d}" for step in (3, 6, 8)
    ]


def test_a_finished_run_is_not_trained_again(start: Start) -> None:
    first = start(evaluators=[Probe(every_steps=4)])
    again = start(evaluators=[probe := Probe(every_steps=4)])
    assert again.recorder.started == [(8, 8)]
    assert again.recorder.steps == []
    assert probe.outputs == []
    assert again.results == first.results
    assert_same(again, first)


def test_a_resume_is_told(start: Start) -> None:
    stopped = start(stop_at=3)
    resumed = start()
    assert stopped.recorder.started == [(0, 8)]
    assert stopped.recorder.messages == []
    assert resumed.recorder.started == [(3, 8)]
    assert resumed.recorder.messages == ["resumed at step 3"]


# ---- evaluation ---------------------------------------------------------------------------------


def test_evaluators_see_the_first_average(start: Start) -> None:
    """Exactly what a copy of the model with these weights says, and not what the model says."""
    done = start(evaluators=[probe := Probe(every_steps=0)])
    average = deepcopy(done.model)
    average.load_state_dict(done.emas[0].shadow)
    with torch.no_grad():
        assert torch.equal(probe.outputs[-1], average(*probe_inputs()))
        assert not torch.equal(probe.outputs[-1], done.model(*probe_inputs()))
    assert probe.modes == [(False, False)]
    assert done.model.training


def test_evaluations_come_when_due_and_once_at_the_end(start: Start) -> None:
    often, seldom = Probe(every_steps=2, name="often"), Probe(every_steps=0, name="seldom")
    done = start(evaluators=[often, seldom])
    paths = [(step, str(path)) for step, path in done.recorder.artifacts]
    assert paths == [
        *[(step, f"often-{step}.png") for step in (2, 4, 6, 8)],
        (8, "seldom-8.png"),
    ]
    reported = {n: v for _, row in done.recorder.rows for n, v in row.items() if "eval" in n}
    assert done.results == reported
    assert reported.keys() == {"eval/often", "eval/seldom"}


def test_evaluations_that_a_stop_cut_off_run_after_the_resume(start: Start) -> None:
    straight = start("straight", evaluators=[Probe(every_steps=4)])
    stopped = start(stop_at=4, evaluators=[cut := Probe(every_steps=4)], stop_in_evaluation=True)
    assert stopped.results is None
    assert cut.outputs == []
    resumed = start(evaluators=[Probe(every_steps=4)])
    assert resumed.recorder.rows[0][0] == 4
    assert_same(resumed, straight)
    rows = stopped.recorder.timeless() + resumed.recorder.timeless()
    assert rows == straight.recorder.timeless()


def test_an_evaluation_that_fails_costs_nothing_that_was_trained(start: Start) -> None:
    """The checkpoint is written before; the next start measures, and leaves the same behind."""
    straight = start("straight", evaluators=[Probe(every_steps=4), Probe(every_steps=0, name="b")])

    def fail() -> None:
        raise ValueError("no such metric")

    failing = Probe(every_steps=0, name="b", check_stop=fail)
    with pytest.raises(ValueError, match="no such metric"):
        start(evaluators=[Probe(every_steps=4), failing])
    resumed = start(evaluators=[again := Probe(every_steps=4), Probe(every_steps=0, name="b")])
    assert (resumed.recorder.started, resumed.recorder.steps) == ([(8, 8)], [])
    assert len(again.outputs) == 1
    assert resumed.results == straight.results
    for run in (resumed, straight):
        checkpoint = run.store.latest()
        assert checkpoint.state()["train"]["evaluated_step"] < 8
        assert checkpoint.position()["results"] == straight.results
        assert checkpoint.is_measured()
    assert_same(resumed, straight)


def test_what_was_measured_is_not_measured_again(start: Start) -> None:
    options = {"checkpoint_every_steps": 4}
    start(stop_at=4, evaluators=[Probe(every_steps=4)], **options)
    resumed = start(evaluators=[later := Probe(every_steps=4)], **options)
    assert resumed.recorder.started == [(4, 8)]
    assert len(later.outputs) == 1  # at step 8


def test_an_evaluation_cut_off_at_the_end_runs_after_the_resume(start: Start) -> None:
    straight = start("straight", evaluators=[Probe(every_steps=0)])
    start(stop_at=8, evaluators=[Probe(every_steps=0)], stop_in_evaluation=True)
    resumed = start(evaluators=[Probe(every_steps=0)])
    assert resumed.results == straight.results
    assert resumed.recorder.steps == []


# ---- gradients ----------------------------------------------------------------------------------


def test_accumulation_is_one_big_batch(start: Start) -> None:
    """SGD without clipping, so that a wrong scale of the gradients would show."""
    options = {"make_optimizer": partial(SGD, lr=0.05, momentum=0.9), "clip_norm": None}
    whole = start("whole", **options)
    for parts in (2, 4):
        cut = start(f"parts-{parts}", accumulation=parts, **options)
        expected = whole.tensors()
        for name, tensor in cut.tensors().items():
            # float32 sums of 16 gradients in another order, over 8 steps: 1e-7 each
            torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-6, msg=name)
        for (step, row), (other_step, other) in zip(
            cut.recorder.timeless(), whole.recorder.timeless(), strict=True
        ):
            assert step == other_step
            assert row == pytest.approx(other, rel=1e-5)
        assert cut.recorder.steps == whole.recorder.steps  # parts are no steps


def test_training_is_the_textbook_loop(
    start: Start,
    make_model: Callable[..., DiT],
    make_batches: Callable[..., TrainingBatches],
) -> None:
    """The same few lines written out: null labels, mean loss, rate, clipping, step, average."""
    done = start(total_steps=4, log_every_steps=1, clip_norm=0.5)
    model = make_model()
    optimizer = FUSED_ADAMW([w for w in model.parameters() if w.requires_grad])
    shadow = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    flow, steps = RectifiedFlow(), make_batches().from_step(0)
    rows = []
    for step, factor in enumerate([0.5, 1.0, 1.0, 0.55]):
        (batch,) = next(steps)
        assert batch.drop_label.any()  # or the null label would not be tested
        labels = batch.labels.masked_fill(batch.drop_label, NULL_LABEL)
        loss = flow.loss(lambda x, t, y=labels: model(x, t, y), batch)["loss"].mean()
        loss.backward()
        gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        for gradient in gradients:
            gradient /= max((norm + 1e-6) / 0.5, torch.ones(()))
        optimizer.param_groups[0]["lr"] = 0.01 * factor
        optimizer.step()
        optimizer.zero_grad()
        decay = min(0.9, (1 + step) / (10 + step))
        for name, weight in model.named_parameters():
            shadow[name] = decay * shadow[name] + (1 - decay) * weight.detach()
        images = 16.0 * (step + 1)
        rows.append(
            {
                "train/loss": loss.item(),
                "train/grad_norm": norm.item(),
                "train/lr": 0.01 * factor,
                "train/images": images,
                "train/epochs": images / 1437,
                "train/skipped_steps": 0.0,
            }
        )
    for name, weight in model.named_parameters():
        assert torch.equal(done.model.get_parameter(name), weight), name
        # the average is written another way here: float32 rounding of weights below 2
        torch.testing.assert_close(done.emas[0].shadow[name], shadow[name], rtol=0, atol=1e-6)
    assert [row for _, row in done.recorder.timeless()] == [
        pytest.approx(row, rel=1e-12) for row in rows
    ]
    assert max(row["train/grad_norm"] for row in rows) > 0.5  # clipping did something


def test_speed_leaves_out_evaluations(start: Start) -> None:
    slow = Probe(every_steps=2, check_stop=lambda: time.sleep(0.5))
    done = start(total_steps=4, log_every_steps=2, evaluators=[slow])
    logged = [row for _, row in done.recorder.rows if "perf/images_per_second" in row]
    # steps 3 and 4 take some milliseconds; with the evaluation before them, over half a second
    assert logged[1]["perf/images_per_second"] > 2 * GLOBAL_BATCH / 0.5
    assert [row["perf/seconds_left"] > 0 for row in logged] == [True, False]


# ---- bad steps ----------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize(
    "make_optimizer", [FUSED_ADAMW, partial(AdamW, lr=0.01)], ids=["fused", "plain"]
)
def test_a_bad_step_is_skipped_and_counted(
    start: Start, value: float, accumulation: int, make_optimizer: Callable[..., Optimizer]
) -> None:
    done = start(
        objective=BadAt([4], value),
        accumulation=accumulation,
        make_optimizer=make_optimizer,
        total_steps=10,
    )
    assert done.recorder.steps == list(range(1, 11))
    for name, tensor in done.tensors().items():
        assert torch.isfinite(tensor).all(), name
    logged = [(step, row["train/skipped_steps"]) for step, row in done.recorder.rows]
    assert logged == [(3, 0.0), (6, 1.0), (9, 1.0), (10, 1.0)]
    assert [ema.num_updates.item() for ema in done.emas] == [9, 9]
    assert {state["step"].item() for state in done.optimizer.state.values()} == {9}


def test_a_bad_step_leaves_everything_as_it_was(start: Start) -> None:
    before = start("before", stop_at=4, total_steps=10)
    bad = start("bad", objective=BadAt([4]), stop_at=5, total_steps=10)
    assert_same(bad, before)


def test_a_streak_of_bad_steps_ends_the_run_and_saves_nothing(start: Start, tmp_path: Path) -> None:
    with pytest.raises(Diverged, match="in 3 of 6 steps, 3 of them in a row "):
        start(objective=BadAt(range(3, 8)), checkpoint_every_steps=2, log_every_steps=6, **LONG)
    latest = CheckpointStore(tmp_path / "run", run="here", warn=pytest.fail).latest()
    assert latest is not None
    assert latest.step == 4
    for tensors in (latest.tensors("model"), latest.tensors("ema-0.9")):
        assert all(torch.isfinite(tensor).all() for tensor in tensors.values())


def test_a_streak_goes_on_over_a_resume(start: Start) -> None:
    start(objective=BadAt(range(3, 8)), stop_at=5, **LONG)  # two bad steps so far
    with pytest.raises(Diverged, match="in 3 of 6 steps, 3 of them in a row "):
        start(objective=BadAt(range(3, 8)), log_every_steps=1, **LONG)


def test_bad_steps_apart_do_not_end_the_run(start: Start) -> None:
    done = start(objective=BadAt([1, 2, 4, 5, 7]), log_every_steps=1, stop_at=8, **LONG)
    assert done.recorder.rows[-1][1]["train/skipped_steps"] == 5.0


def test_a_streak_that_ended_between_two_looks_ends_the_run(start: Start) -> None:
    with pytest.raises(Diverged, match="in 3 of 8 steps, 3 of them in a row; these"):
        start(objective=BadAt([2, 3, 4]), log_every_steps=8, **LONG)


def test_a_run_most_of_whose_steps_were_skipped_does_not_finish(start: Start) -> None:
    """Two of eight, far apart: no streak."""
    with pytest.raises(Diverged, match="in 2 of 8 steps, 1 of them in a row; these"):
        start(objective=BadAt([2, 5]), log_every_steps=100)


@pytest.mark.parametrize("evaluated", [False, True])
def test_weights_that_the_last_step_made_infinite_are_neither_saved_nor_measured(
    start: Start, tmp_path: Path, evaluated: bool
) -> None:
    """Loss and gradients were finite, so that no step was skipped."""
    probe = Probe(every_steps=4)
    with pytest.raises(Diverged, match=r"are not finite after step 4, and are not saved"):
        start(
            make_optimizer=partial(SGD, lr=3e38),
            objective=Steep(),
            schedule=OnlyAt(3),
            clip_norm=None,
            total_steps=8 if evaluated else 4,
            evaluators=[probe] if evaluated else [],
            log_every_steps=100,
        )
    assert not list(tmp_path.glob("run/step-*"))
    assert not probe.outputs
