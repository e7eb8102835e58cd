"""EMA: closed forms, skipped steps, and a counter that survives a resume."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dit_lab.training.checkpoint_store import CheckpointStore
from dit_lab.training.ema import EMA

START = torch.tensor([1.0, -2.0, 0.5])
GOAL = torch.tensor([3.0, 0.25, -1.0])
APPLIED, SKIPPED = torch.ones(()), torch.zeros(())


def average(*, decay: float = 0.9, warmup: bool = False) -> EMA:
    return EMA({"w": START.clone()}, decay=decay, warmup=warmup)


def follow(ema: EMA, count: int, weights: Tensor = GOAL) -> Tensor:
    """The shadow after `count` updates towards constant weights."""
    for _ in range(count):
        ema.update({"w": weights}, APPLIED)
    return ema.shadow["w"]


@pytest.mark.parametrize("count", [0, 1, 7, 40])
def test_without_warmup_the_start_fades_as_a_power_of_the_decay(count: int) -> None:
    expected = GOAL + 0.9**count * (START - GOAL)
    # float32 rounds each of up to 40 updates by 6e-8 of values near 3
    torch.testing.assert_close(follow(average(), count), expected, rtol=0, atol=8e-6)


def test_moving_weights_are_weighted_by_their_age() -> None:
    ema = average(decay=0.8)
    seen = [GOAL * number for number in range(6)]
    for weights in seen:
        ema.update({"w": weights}, APPLIED)
    expected = 0.8**6 * START + sum(0.2 * 0.8 ** (5 - k) * w for k, w in enumerate(seen))
    torch.testing.assert_close(ema.shadow["w"], expected, rtol=1e-6, atol=1e-6)  # float32


@pytest.mark.parametrize("count", [1, 2, 5, 20])
def test_warmup_starts_with_small_decays(count: int) -> None:
    """The product of (1 + n) / (10 + n) for n < k is k! 9! / (9 + k)!."""
    left = math.factorial(count) * math.factorial(9) / math.factorial(9 + count)
    shadow = follow(average(decay=0.9999, warmup=True), count)
    torch.testing.assert_close(shadow, GOAL + left * (START - GOAL), rtol=1e-6, atol=1e-6)


def test_warmup_ends_at_the_decay() -> None:
    """(1 + n) / (10 + n) reaches 1/2 at n = 8; each of 4 more updates halves what is left."""
    left = math.factorial(8) * math.factorial(9) / math.factorial(17) / 2**4
    start = torch.tensor([1e6])  # far away, so that little that is left of it still counts
    ema = EMA({"w": start}, decay=0.5, warmup=True)
    torch.testing.assert_close(follow(ema, 12, torch.zeros(1)), left * start, rtol=1e-5, atol=0)


@pytest.mark.parametrize("warmup", [False, True])
def test_a_skipped_update_changes_nothing(warmup: bool) -> None:
    ema = average(warmup=warmup)
    before, counter = follow(ema, 3).clone(), ema.num_updates.item()
    ema.update({"w": GOAL * 100}, SKIPPED)
    assert torch.equal(ema.shadow["w"], before)
    assert ema.num_updates.item() == counter == 3
    plain = average(warmup=warmup)
    assert torch.equal(follow(ema, 2), follow(plain, 5))


def test_the_counter_survives_a_checkpoint(tmp_path: Path) -> None:
    straight = average(decay=0.9999, warmup=True)
    follow(straight, 30)
    saved = CheckpointStore(tmp_path, run="this", warn=pytest.fail).save(
        30, tensors={straight.name: straight.shadow}, state=straight.scalars()
    )
    resumed = average(decay=0.9999, warmup=True)
    resumed.load(saved.tensors(straight.name), saved.state())
    assert torch.equal(resumed.shadow["w"], straight.shadow["w"])
    assert torch.equal(resumed.num_updates, straight.num_updates)
    other = GOAL + 10
    # a counter that restarts at 0 would take nine tenths of the new weights at once
    assert torch.equal(follow(resumed, 1, other), follow(straight, 1, other))
    assert (resumed.shadow["w"] - GOAL).abs().max() < 3


def test_scalars_are_json() -> None:
    ema = average()
    follow(ema, 3)
    assert json.loads(json.dumps(ema.scalars())) == {"decay": 0.9, "num_updates": 3.0}


def test_the_shadow_is_a_copy_in_float32_without_gradients() -> None:
    weight = torch.nn.Parameter(START.bfloat16())
    ema = EMA({"w": weight}, decay=0.9999, warmup=False)
    with torch.no_grad():
        weight += 1
    assert torch.equal(ema.shadow["w"], START)
    assert ema.shadow["w"].dtype == torch.float32
    ema.update({"w": weight}, APPLIED)
    assert not ema.shadow["w"].requires_grad
    # a ten-thousandth of a change of 1: bfloat16 would have lost it
    torch.testing.assert_close(ema.shadow["w"] - START, torch.full((3,), 1e-4), rtol=0, atol=2e-7)


def test_the_name_tells_averages_apart() -> None:
    assert average(decay=0.9999).name == "ema-0.9999"
    assert average(decay=0.999).name == "ema-0.999"
