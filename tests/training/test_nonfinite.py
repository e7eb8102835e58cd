"""Non-finite steps: detected, counted, and reported with their images."""

from __future__ import annotations

import copy
import json
import pickle

import pytest
import torch

from dit_lab.core.errors import Diverged
from dit_lab.core.process_group import SINGLE_PROCESS
from dit_lab.core.types import Batch
from dit_lab.training.nonfinite import NonFiniteGuard, explain, refuse_nonfinite
from dit_lab.training.state import TrainState

CPU = torch.device("cpu")


def flags(guard: NonFiniteGuard, pairs: list[tuple[float, float]]) -> list[float]:
    return [guard.flag(torch.tensor(loss), torch.tensor(norm)).item() for loss, norm in pairs]


GOOD, BAD = (1.0, 2.0), (torch.nan, 2.0)


def guard_of(
    state: TrainState, *, max_in_a_row: int = 3, total_steps: int = 1000
) -> NonFiniteGuard:
    return NonFiniteGuard(state, max_in_a_row=max_in_a_row, total_steps=total_steps, device=CPU)


def test_loss_and_gradients_are_looked_at() -> None:
    pairs = [GOOD, BAD, (1.0, torch.nan), (torch.inf, 2.0), (1.0, -torch.inf), (1e38, 0.0)]
    assert flags(guard_of(TrainState()), pairs) == [0, 1, 1, 1, 1, 0]


def test_skipped_steps_are_counted_and_a_good_step_ends_a_streak() -> None:
    state = TrainState()
    guard = guard_of(state)
    flags(guard, [BAD, BAD, GOOD, BAD])
    assert (state.skipped_steps, state.skipped_in_a_row) == (0, 0)  # still on the device
    assert not guard.too_many()
    assert (state.skipped_steps, state.skipped_in_a_row, state.longest_skipped) == (3, 1, 2)
    flags(guard, [GOOD])
    assert not guard.too_many()
    assert (state.skipped_steps, state.skipped_in_a_row, state.longest_skipped) == (3, 0, 2)


def test_a_streak_that_has_ended_is_still_known() -> None:
    guard = guard_of(TrainState())
    flags(guard, [BAD, BAD, BAD, GOOD, GOOD])
    assert guard.too_many()


@pytest.mark.parametrize(("bad", "too_many"), [(10, False), (11, True)])
def test_no_more_than_a_tenth_of_all_steps_is_skipped(bad: int, too_many: bool) -> None:
    guard = guard_of(TrainState(), total_steps=100)
    flags(guard, [BAD, GOOD] * bad)
    assert guard.too_many() is too_many


def test_counting_goes_on_after_a_resume() -> None:
    state = TrainState(skipped_steps=5, skipped_in_a_row=2, longest_skipped=2)
    guard = guard_of(state)
    assert not guard.too_many()
    assert (state.skipped_steps, state.skipped_in_a_row) == (5, 2)
    flags(guard, [BAD])
    assert guard.too_many()


def test_weights_and_averages_that_are_not_finite_are_named() -> None:
    good, bad = torch.zeros(3), torch.tensor([0.0, torch.inf])
    refuse_nonfinite(SINGLE_PROCESS, {"model": {"a": good}, "ema-0.9": {"a": good}}, step=7)
    groups = {"model": {"a": good, "b": bad}, "ema-0.9": {"a": good, "b": bad * 0}}
    with pytest.raises(
        Diverged, match=r"^diverged: ema-0\.9/b and 1 more are not finite after step 7"
    ) as found:
        refuse_nonfinite(SINGLE_PROCESS, groups, step=7)
    assert found.value.diagnosis == {"step": 7, "not_finite": ["ema-0.9/b", "model/b"]}


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


def explained(*last_step: tuple[Batch, torch.Tensor]) -> Diverged:
    weights = {"a": torch.tensor([1.0, -3.0]), "b": torch.tensor([2.0])}
    state = TrainState(step=70, skipped_steps=5, skipped_in_a_row=3, longest_skipped=3)
    return explain(SINGLE_PROCESS, state, last_step=last_step, order=Backwards(), weights=weights)


def test_a_streak_is_explained_by_its_images_with_advice() -> None:
    first, second = micro_batch(40, [1.0, torch.nan]), micro_batch(42, [torch.inf, 1.0])
    second[0].data[0, 0, 0, 0] = torch.nan
    streak = explained(first, second)
    assert str(streak) == (
        "diverged: loss or gradients were not finite in 5 of 70 steps, 3 of them in a row "
        "(step 70: training images 959, 958); these steps were skipped. Try a lower "
        "optimizer.lr, a longer schedule.warmup_steps or precision=fp32"
    )
    image = {"process": 0, "time": 0.25}
    assert json.loads(json.dumps(streak.diagnosis, allow_nan=False)) == {
        "step": 70,
        "first_step": 68,
        "skipped_steps": 5,
        "longest_skipped": 3,
        "images": [
            {"image": 959, "sample_counter": 41, "label": 1, "data_is_finite": True, **image},
            {"image": 958, "sample_counter": 42, "label": 0, "data_is_finite": False, **image},
        ],
        "largest_weights": {"a": 3.0, "b": 2.0},
    }


def test_other_processes_are_sent_it_as_it_is() -> None:
    """As those of processes that draw or measure together are."""
    streak = explained(micro_batch(0, [torch.nan]))
    sent = pickle.loads(pickle.dumps(copy.deepcopy(streak)))
    assert (str(sent), sent.diagnosis) == (str(streak), streak.diagnosis)


def test_finite_losses_leave_the_gradients() -> None:
    streak = explained(micro_batch(0, [1.0, 2.0]))
    assert "(step 70: every image's loss was finite and the gradients were not)" in str(streak)
    assert streak.diagnosis["images"] == []


def test_many_images_are_counted() -> None:
    streak = explained(micro_batch(0, [torch.nan] * 9))
    assert "(step 70: training images 1000, 999, 998, 997, 996 and 4 more)" in str(streak)
    assert len(streak.diagnosis["images"]) == 9
