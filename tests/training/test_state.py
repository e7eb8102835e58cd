"""The training state: window means, time without pauses, skipped steps, all fields."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.optim import AdamW

from dit_lab.models.dit import DiT
from dit_lab.training.checkpoint import Checkpoint
from dit_lab.training.checkpoint_store import CheckpointStore
from dit_lab.training.ema import EMA
from dit_lab.training.state import Clock, Snapshot, TrainState, Window

CPU = torch.device("cpu")
Make = Callable[..., DiT]


TAKEN, SKIPPED = torch.tensor(1.0), torch.tensor(0.0)

# ---- window -------------------------------------------------------------------------------------


def values(step: int) -> dict[str, Tensor]:
    return {"loss": torch.tensor(0.1 * step, requires_grad=True), "norm": torch.tensor(2.0**step)}


def test_means_cover_the_steps_since_the_last_reading() -> None:
    window = Window(CPU)
    assert window.means() == {}
    for first, last in ((0, 3), (3, 4), (4, 10)):
        for step in range(first, last):
            window.add(values(step), applied=TAKEN)
        expected = [values(step)["loss"].double() for step in range(first, last)]
        means = window.means()
        assert list(means) == ["loss", "norm"]
        assert means["loss"] == (sum(expected) / len(expected)).item()
        assert means["norm"] == (2.0**last - 2.0**first) / (last - first)
    assert window.means() == {}


def test_sums_are_in_float64() -> None:
    """2^24 + 1 is no float32 number: a float32 sum would stop growing."""
    window = Window(CPU)
    window.add({"loss": torch.tensor(2.0**24)}, applied=TAKEN)
    for _ in range(3):
        window.add({"loss": torch.tensor(1.0)}, applied=TAKEN)
    assert window.means() == {"loss": (2**24 + 3) / 4}


def test_what_was_added_may_change_later() -> None:
    window, value = Window(CPU), torch.tensor(1.0)
    window.add({"loss": value}, applied=TAKEN)
    value.fill_(5.0)
    window.add({"loss": value}, applied=TAKEN)
    assert window.means() == {"loss": 3.0}


def test_a_skipped_step_does_not_count() -> None:
    window = Window(CPU)
    window.add({"loss": torch.tensor(1.0)}, applied=TAKEN)
    window.add({"loss": torch.tensor(float("nan"))}, applied=SKIPPED)
    window.add({"loss": torch.tensor(4.0)}, applied=TAKEN)
    assert window.means() == {"loss": 2.5}


@pytest.mark.parametrize("cut", [0, 1, 4])
def test_a_half_filled_window_goes_on_after_a_resume(cut: int) -> None:
    straight, resumed = Window(CPU), Window(CPU)
    for step in range(cut):
        straight.add(values(step), applied=TAKEN)
    resumed.add(values(99), applied=TAKEN)  # loading replaces what is there
    resumed.load(json.loads(json.dumps(straight.scalars())))
    for step in range(cut, 7):
        straight.add(values(step), applied=TAKEN)
        resumed.add(values(step), applied=TAKEN)
    assert resumed.means() == straight.means()


# ---- clock --------------------------------------------------------------------------------------


def test_a_clock_counts_steps_and_leaves_out_pauses() -> None:
    clock = Clock(step=10)
    time.sleep(0.1)
    with clock.paused():
        time.sleep(0.6)
    time.sleep(0.1)
    # 0.2 s of work in 4 steps, and 0.15 s a step with the pause; between them is room for a busy
    # machine
    seconds, waited = clock.seconds_per_step(14)
    assert 0.05 <= seconds < 0.15 and waited == 0
    time.sleep(0.1)
    with clock.waiting():
        time.sleep(0.1)
    seconds, waited = clock.seconds_per_step(15)
    assert 0.2 <= seconds < 0.6 and 0.1 <= waited < 0.4  # anew, not since the beginning
    assert clock.seconds_per_step(16)[1] == 0


# ---- everything ---------------------------------------------------------------------------------


def snapshot(make_model: Make, *, steps: int) -> Snapshot:
    """A model after some steps of training on random gradients."""
    model = make_model()
    weights = dict(model.named_parameters())
    trainable = [weight for weight in weights.values() if weight.requires_grad]
    optimizer = AdamW(trainable, lr=0.01, fused=True)
    emas = [EMA(weights, decay=decay, warmup=True) for decay in (0.9999, 0.5)]
    window, draw = Window(CPU), torch.Generator().manual_seed(0)
    for step in range(steps):
        for weight in trainable:
            weight.grad = torch.randn(weight.shape, generator=draw)
        optimizer.step()
        for ema in emas:
            ema.update(weights, torch.ones(()))
        window.add(values(step), applied=TAKEN)
    state = TrainState(step=steps, evaluated_step=steps // 2, skipped_steps=1, results={"a": 0.1})
    return Snapshot(model=model, optimizer=optimizer, emas=emas, state=state, window=window)


def save(everything: Snapshot, folder: Path) -> Checkpoint:
    return CheckpointStore(folder, run="here", warn=pytest.fail).save(
        everything.state.step, tensors=everything.tensors(), state=everything.scalars()
    )


def test_everything_is_restored_exactly(make_model: Make, tmp_path: Path) -> None:
    before, after = snapshot(make_model, steps=3), snapshot(make_model, steps=1)
    checkpoint = save(before, tmp_path)
    held = {name: weight.data_ptr() for name, weight in after.model.named_parameters()}
    assert after.restore(checkpoint) == ["resumed at step 3"]
    assert after.state == before.state
    assert after.scalars() == before.scalars()
    expected = before.tensors()
    assert expected.keys() == {"model", "ema-0.9999", "ema-0.5", "optimizer/state"}
    for group, tensors in after.tensors().items():
        assert tensors.keys() == expected[group].keys()
        for name, tensor in tensors.items():
            assert torch.equal(tensor, expected[group][name]), f"{group} {name}"
    assert {n: w.data_ptr() for n, w in after.model.named_parameters()} == held  # in place
    assert after.window.means() == before.window.means()


def test_another_number_of_threads_is_said(make_model: Make, tmp_path: Path) -> None:
    everything = snapshot(make_model, steps=2)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        checkpoint = save(everything, tmp_path)
    finally:
        torch.set_num_threads(threads)
    first, second = everything.restore(checkpoint)
    assert first == "resumed at step 2"
    assert f"written with {threads + 1} threads, this process has {threads}:" in second
