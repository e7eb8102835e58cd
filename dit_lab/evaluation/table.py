"""The rows of an evaluation, and warnings about rows that are not meaningful.

Torch-free, so that results can be shown immediately.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from dit_lab.core.typed import Count


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One metric value."""

    metric: str  # two_sample, recall, distance_ratio, ...
    extractor: str  # feature extractor, or ""
    against: str  # "training" or "held-out" images
    num_images: Count  # per draw
    value: float  # mean over draws and noise seeds
    deviation: float | None = None  # over draws, or over noise seeds if several
    minimum: float | None = None  # over noise seeds if several
    floor: float | None = None  # real-vs-real baseline; None: too few held-out images
    floor_deviation: float | None = None
    caveat: str = ""  # why the value is not meaningful

    @property
    def name(self) -> str:
        """Metric and extractor, as in `fid_inception`."""
        return f"{self.metric}_{self.extractor}" if self.extractor else self.metric

    @property
    def key(self) -> str:
        """Name in metrics files and trackers.

        `eval/fid_inception_n50000` is against training images,
        `eval/two_sample_pixels_held_out_n360` against held-out images.
        """
        against = "" if self.against == "training" else f"_{self.against.replace('-', '_')}"
        return f"eval/{self.name}{against}_n{self.num_images}"


def is_row_key(name: str) -> bool:
    """Return whether a name is the key of a row, as opposed to a loss."""
    return re.fullmatch(r"eval/\w+_n\d+", name) is not None


HIGHER_IS_BETTER = (
    "recall", "precision", "coverage", "class_accuracy", "inception_score", "class_score",
)  # fmt: skip
AIMED_AT = {"distance_ratio": 1, "density": 1}  # ideal values; neither higher nor lower is better

COPIES = "the samples copy training images"
UNLIKE = "the two-sample test separates the samples from real images"
FEW = "the samples miss much of the data"
BLIND_TO = {
    COPIES: (
        "two_sample", "recall", "precision", "coverage", "density", "class_accuracy", "fd", "fid",
        "fdd", "kd", "kid", "inception_score", "class_score",
    ),
    UNLIKE: (
        "precision", "density", "class_accuracy", "fd_pixels", "distance_ratio", "near_copies",
    ),
    FEW: ("precision", "density", "class_accuracy"),
}  # fmt: skip
"""Finding -> metrics that do not detect it and may look good nevertheless."""

COPIES_RATIO, COPIES_SHARE = 0.8, 0.05  # ratio below, or share this much above baseline
UNLIKE_ACCURACY = 0.8
FEW_RECALL = 0.5  # as a fraction of the baseline


def findings(rows: Sequence[Row]) -> list[str]:
    """Return the problems of the samples as a whole, as far as the given metrics detect them.

    A problem makes the metrics of `BLIND_TO` meaningless.
    """
    found = []
    if any(_copies(row) for row in rows):
        found.append(COPIES)
    if any(row.metric == "two_sample" and row.value > UNLIKE_ACCURACY for row in rows):
        found.append(UNLIKE)
    if any(row.metric == "recall" and row.value < FEW_RECALL * (row.floor or 0) for row in rows):
        found.append(FEW)
    return found


def _copies(row: Row) -> bool:
    if row.metric == "distance_ratio":
        return row.value < COPIES_RATIO
    is_share = row.metric in ("exact_copies", "near_copies")
    return is_share and row.value - (row.floor or 0) > COPIES_SHARE


def with_caveats(rows: Sequence[Row]) -> list[Row]:
    found = findings(rows)
    return [
        replace(row, caveat="; ".join(why for why in found if _is_blind(row, why))) for row in rows
    ]


def _is_blind(row: Row, finding: str) -> bool:
    return row.metric in BLIND_TO[finding] or row.name in BLIND_TO[finding]


def over_seeds(tables: Sequence[Sequence[Row]]) -> list[Row]:
    """Combine the tables of several noise seeds: mean, standard deviation and minimum."""
    if len(tables) == 1:
        return list(tables[0])
    rows = []
    for same in zip(*tables, strict=True):
        values = [row.value for row in same]
        mean, deviation = statistics.fmean(values), statistics.stdev(values)
        rows.append(replace(same[0], value=mean, deviation=deviation, minimum=min(values)))
    return with_caveats(rows)
