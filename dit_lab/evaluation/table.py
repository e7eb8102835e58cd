"""The rows of an evaluation, and which of them do not count.

Torch-free: results are shown at once.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One number of the table."""

    metric: str  # two_sample, recall, distance_ratio, ...
    against: str  # "training" or "held-out" images
    num_images: int  # of one draw
    value: float  # mean over the draws
    deviation: float | None = None  # over the draws
    floor: float | None = None  # real held-out images at the same count; None: there are too few
    floor_deviation: float | None = None
    caveat: str = ""  # why the number does not count

    @property
    def key(self) -> str:
        """Name in metrics files and trackers: `eval/two_sample_training_n360`."""
        return f"eval/{self.metric}_{self.against.replace('-', '_')}_n{self.num_images}"


def is_row_key(name: str) -> bool:
    """Whether a metric is a number of some table, and not a loss."""
    return re.fullmatch(r"eval/\w+_n\d+", name) is not None


HIGHER_IS_BETTER = ("recall", "precision", "class_accuracy")
AIMED_AT = {"distance_ratio": 1}  # neither more nor less is better

COPIES = "the samples copy training images"
UNLIKE = "trees tell the samples from real images"
FEW = "the samples leave out much of the data"
BLIND_TO = {
    COPIES: ("two_sample", "recall", "precision", "class_accuracy", "pixel_frechet"),
    UNLIKE: ("precision", "class_accuracy", "pixel_frechet", "distance_ratio", "near_copies"),
    FEW: ("precision", "class_accuracy"),
}
"""Finding -> the metrics that look good in spite of it."""

COPIES_RATIO, COPIES_SHARE = 0.8, 0.05  # distance ratio below, or copies beyond the floor above
UNLIKE_ACCURACY = 0.8
FEW_RECALL = 0.5  # of the floor


def findings(rows: Sequence[Row]) -> list[str]:
    """What is wrong with the samples as a whole, so that some numbers do not count."""
    by_metric = {row.metric: row for row in rows if row.floor is not None}
    copies = max(
        by_metric[name].value - (by_metric[name].floor or 0)
        for name in ("exact_copies", "near_copies")
    )
    found = []
    if by_metric["distance_ratio"].value < COPIES_RATIO or copies > COPIES_SHARE:
        found.append(COPIES)
    if max(row.value for row in rows if row.metric == "two_sample") > UNLIKE_ACCURACY:
        found.append(UNLIKE)
    if by_metric["recall"].value < FEW_RECALL * (by_metric["recall"].floor or 0):
        found.append(FEW)
    return found


def with_caveats(rows: Sequence[Row]) -> list[Row]:
    found = findings(rows)
    return [
        replace(row, caveat="; ".join(why for why in found if row.metric in BLIND_TO[why]))
        for row in rows
    ]
