"""Which metric runs are judged by, and which way is better. Torch-free."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dit_lab.core.errors import RequestError
from dit_lab.evaluation.table import AIMED_AT, HIGHER_IS_BETTER
from dit_lab.report.results import NOT_SET

LOSS = "eval/loss"
OF_OBJECTIVE = "objective."  # keys that are options of the objective
LEADING = (
    "eval/two_sample_pixels_held_out", "eval/two_sample_pixels",
    "eval/two_sample_classifier_held_out", "eval/two_sample_classifier",
)  # fmt: skip


def leading_metric(names: Iterable[str]) -> str:
    """The metric that runs are judged by unless another is asked for."""
    return smallest_draw(list(names), LEADING) or LOSS


def smallest_draw(names: Iterable[str], starts: Sequence[str]) -> str | None:
    """The metric of the smallest draw: the one whose spread is known."""
    for start in starts:
        fitting = [name for name in names if re.fullmatch(f"{start}_n[0-9]{{1,9}}", name)]
        if fitting:
            return min(fitting, key=lambda name: int(name.rpartition("_n")[2]))
    return None


def is_lower_better(metric: str) -> bool:
    return not any(f"/{name}_" in metric for name in HIGHER_IS_BETTER)


def loss_of(objective: str, target: str, settings: Mapping[str, str]) -> str:
    """What the loss of a run is a loss of, as far as its settings tell runs apart:
    `rectified_flow time_sampling=cosmap`. Every option of the lab's own objectives makes it another
    quantity; what those of the user's own do is theirs to say.

    objective: the chosen member of the group; target: its `_target_`.
    """
    own = (
        f"{key}={text}".removeprefix(OF_OBJECTIVE)
        for key, text in settings.items()
        if key.startswith(OF_OBJECTIVE) and text != NOT_SET and target.startswith("dit_lab.")
    )
    return " ".join([objective, *own])


def loss_of_run(config: Mapping[str, Any], settings: Mapping[str, str]) -> str:
    """The same, of a run by its configuration."""
    return loss_of(config["choices"]["objective"], config["objective"]["_target_"], settings)


def refuse_incomparable(metric: str, objectives: Iterable[str], *, key: str) -> None:
    """RequestError where `metric`, given as `key`, says nothing about which run is better."""
    different = sorted(set(objectives))
    if metric.endswith("/loss") and len(different) > 1:
        raise RequestError(
            f"{key}={metric}: losses of different objectives ({', '.join(different)}) are "
            "different quantities; measure samples (evaluation.num_images=N) and name one of "
            "those metrics"
        )
    for name, aim in AIMED_AT.items():
        if f"/{name}_" in metric:
            raise RequestError(
                f"{key}={metric}: is best at {aim}, so neither more nor less is better; choose "
                "another metric"
            )
