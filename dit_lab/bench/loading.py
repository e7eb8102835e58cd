"""Throughput of training batches without training."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass
from statistics import median

from dit_lab.bench.device import normal_rate, settle
from dit_lab.bench.figures import ROUNDS, Timing, Turns, by_measure
from dit_lab.bench.training import Training

LEAST_BATCHES, MOST_BATCHES = 2, 60  # per block


@dataclass(frozen=True, slots=True)
class Loading:
    """Time to prepare the data of an optimizer step: load, move, encode, draw noise and couple."""

    seconds: Timing
    images: int
    workers: int
    of_normals: Turns  # time per image, relative to drawing one normal number


def measure_loading(training: Training, seconds: float) -> Loading:
    """Measure the batches of this training."""
    batches, times = training.batches, list[float]()
    with closing(batches.from_step(0)) as steps:

        def batch() -> float:
            start = time.perf_counter()
            next(steps)
            settle(training.device)
            return time.perf_counter() - start

        def block() -> float:
            taken = [batch()]
            while len(taken) < LEAST_BATCHES or (
                sum(taken) < seconds / ROUNDS and len(taken) < MOST_BATCHES
            ):
                taken.append(batch())
            times.extend(taken)
            return median(taken) / training.images

        batch()
        of_normals = by_measure(lambda: 1 / normal_rate(), block)
    return Loading(Timing.of(times), training.images, batches.num_workers, of_normals)
