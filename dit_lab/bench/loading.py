"""How fast training batches come, when nothing else is done."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass

from dit_lab.bench.device import normal_rate, settle
from dit_lab.bench.figures import Spread
from dit_lab.bench.training import Training

LEAST_BATCHES, MOST_BATCHES = 5, 400


@dataclass(frozen=True, slots=True)
class Loading:
    """What the data of an optimizer step takes: read, drawn, moved, encoded and coupled."""

    seconds: Spread
    images: int
    workers: int
    normal_rate: float  # normal numbers a second that this host draws, in the same run


def measure_loading(training: Training, seconds: float) -> Loading:
    """Of the batches that this training would see."""
    batches, times = training.batches, list[float]()
    with closing(batches.from_step(0)) as steps:
        next(steps)
        start = time.perf_counter()
        while len(times) < LEAST_BATCHES or (sum(times) < seconds and len(times) < MOST_BATCHES):
            next(steps)
            settle(training.device)
            times.append(time.perf_counter() - start)
            start = time.perf_counter()
    return Loading(Spread.of(times), training.images, batches.num_workers, normal_rate())
