"""Steps that are not finite: flagged, counted, and explained by the images that they had."""

from __future__ import annotations

import json

import torch

from dit_lab.core.team import ALONE
from dit_lab.core.types import Batch
from dit_lab.training.nonfinite import NonFiniteGuard, NonFiniteStreak, explain
from dit_lab.training.state import TrainState

CPU = torch.device("cpu")


def flags(guard: NonFiniteGuard, pairs: list[tuple[float, float]]) -> list[float]:
    return [guard.flag(torch.tensor(loss), torch.tensor(norm)).item() for loss, norm in pairs]


GOOD, BAD = (1.0, 2.0), (torch.nan, 2.0)


def test_loss_and_gradients_are_looked_at() -> None:
    guard = NonFiniteGuard(TrainState(), max_in_a_row=99, device=CPU)
    pairs = [GOOD, BAD, (1.0, torch.nan), (torch.inf, 2.0), (1.0, -torch.inf), (1e38, 0.0)]
    assert flags(guard, pairs) == [0, 1, 1, 1, 1, 0]


def test_skipped_steps_are_counted_and_a_good_step_ends_a_streak() -> None:
    state = TrainState()
    guard = NonFiniteGuard(state, max_in_a_row=3, device=CPU)
    flags(guard, [BAD, BAD, GOOD, BAD, BAD])
    assert (state.skipped_steps, state.skipped_in_a_row) == (0, 0)  # still on the device
    assert not guard.too_many()
    assert (state.skipped_steps, state.skipped_in_a_row) == (4, 2)
    flags(guard, [GOOD])
    assert not guard.too_many()
    assert (state.skipped_steps, state.skipped_in_a_row) == (4, 0)


def test_counting_goes_on_after_a_resume() -> None:
    state = TrainState(skipped_steps=5, skipped_in_a_row=2)
    guard = NonFiniteGuard(state, max_in_a_row=3, device=CPU)
    assert not guard.too_many()
    assert (state.skipped_steps, state.skipped_in_a_row) == (5, 2)
    flags(guard, [BAD])
    assert guard.too_many()


# ---- the explanation ----------------------------------------------------------------------------


class Backwards:
    """An order in which the image at sample counter k is number 1000 - k."""

    def indices(self, counters: torch.Tensor) -> torch.Tensor:
        return 1000 - counters


def micro_batch(first: int, losses: list[float]) -> tuple[Batch, torch.Tensor]:
    count = len(losses)
    batch = Batch(
        sample_counter=torch.arange(first, first + count),
        data=torch.zeros(count, 1, 2, 2),
        labels=torch.arange(count),
        noise=torch.zeros(count, 1, 2, 2),
        time=torch.full((count,), 0.25),
        drop_label=torch.zeros(count, dtype=torch.bool),
    )
    return batch, torch.tensor(losses)


def explained(*last_step: tuple[Batch, torch.Tensor]) -> NonFiniteStreak:
    weights = {"a": torch.tensor([1.0, -3.0]), "b": torch.tensor([2.0])}
    state = TrainState(step=70, skipped_in_a_row=3)
    return explain(ALONE, state, last_step=last_step, order=Backwards(), weights=weights)


def test_a_streak_is_explained_by_its_images_with_advice() -> None:
    first, second = micro_batch(40, [1.0, torch.nan]), micro_batch(42, [torch.inf, 1.0])
    second[0].data[0, 0, 0, 0] = torch.nan
    streak = explained(first, second)
    assert str(streak) == (
        "loss or gradients were not finite for 3 steps in a row up to step 70 (training images "
        "959, 958); these steps were skipped and the weights are finite. Try a lower optimizer.lr, "
        "a longer schedule.warmup_steps or precision=fp32"
    )
    image = {"process": 0, "time": 0.25}
    assert json.loads(json.dumps(streak.diagnosis, allow_nan=False)) == {
        "step": 70,
        "first_step": 68,
        "images": [
            {"image": 959, "sample_counter": 41, "label": 1, "data_is_finite": True, **image},
            {"image": 958, "sample_counter": 42, "label": 0, "data_is_finite": False, **image},
        ],
        "largest_weights": {"a": 3.0, "b": 2.0},
    }


def test_finite_losses_leave_the_gradients() -> None:
    streak = explained(micro_batch(0, [1.0, 2.0]))
    assert "where every image's loss was finite and the gradients were not" in str(streak)
    assert streak.diagnosis["images"] == []


def test_many_images_are_counted() -> None:
    streak = explained(micro_batch(0, [torch.nan] * 9))
    assert "(training images 1000, 999, 998, 997, 996 and 4 more)" in str(streak)
    assert len(streak.diagnosis["images"]) == 9
