"""The primary metric of a report, and which direction of a metric is better. Torch-free."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dit_lab.core.errors import RequestError
from dit_lab.evaluation.table import AIMED_AT, HIGHER_IS_BETTER
from dit_lab.report.results import NOT_SET

LOSS = "eval/loss"
OF_OBJECTIVE = "objective."  # prefix of the objective's options
LEADING = (
    "eval/two_sample_pixels_held_out", "eval/two_sample_pixels",
    "eval/two_sample_classifier_held_out", "eval/two_sample_classifier",
)  # fmt: skip


def leading_metric(names: Iterable[str]) -> str:
    """Return the primary metric, which decides unless another one is requested."""
    return smallest_draw(list(names), LEADING) or LOSS


def smallest_draw(names: Iterable[str], starts: Sequence[str]) -> str | None:
    """Return the metric with the fewest samples per draw, whose spread is known, or None.

    `starts` are beginnings of metric names, in order of preference.
    """
    for start in starts:
        fitting = [name for name in names if re.fullmatch(f"{start}_n[0-9]{{1,9}}", name)]
        if fitting:
            return min(fitting, key=lambda name: int(name.rpartition("_n")[2]))
    return None


def is_lower_better(metric: str) -> bool:
    return not any(f"/{name}_" in metric for name in HIGHER_IS_BETTER)


def loss_of(objective: str, target: str, settings: Mapping[str, str]) -> str:
    """Return what a loss measures: `rectified_flow time_sampling=cosmap`.

    Losses can be compared if these texts are equal. Every option of the lab's own objectives makes
    the loss another quantity. Options of user-defined objectives are ignored.

    Args:
        objective: the chosen member of the group.
        target: its `_target_`.
        settings: the settings that distinguish the runs.
    """
    own = (
        f"{key}={text}".removeprefix(OF_OBJECTIVE)
        for key, text in settings.items()
        if key.startswith(OF_OBJECTIVE) and text != NOT_SET and target.startswith("dit_lab.")
    )
    return " ".join([objective, *own])


def loss_of_run(config: Mapping[str, Any], settings: Mapping[str, str]) -> str:
    """Return `loss_of` of a run, given its config."""
    return loss_of(config["choices"]["objective"], config["objective"]["_target_"], settings)


def refuse_incomparable(metric: str, objectives: Iterable[str], *, key: str) -> None:
    """Raise RequestError if a metric cannot rank runs.

    This holds for losses of different objectives, and for metrics whose best value lies between low
    and high. `key` is the option that gave the metric, for the message.
    """
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
