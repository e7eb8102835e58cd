"""Time of the optimizer steps of a training, run by its own loop."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

from torch import Tensor

from dit_lab.bench.device import Products, Ticks, settle
from dit_lab.bench.figures import ROUNDS, Timing, Turns, by_measure
from dit_lab.bench.parts import Stopwatch, watched
from dit_lab.build.cost import model_cost
from dit_lab.build.parts import build_parts
from dit_lab.build.training import train_steps, training_objects
from dit_lab.config.schema import RunConfig
from dit_lab.core.types import Hook, Shapes
from dit_lab.tracking.spool import MetricsFile
from dit_lab.training.batches import TrainingBatches
from dit_lab.training.distributed import DistributedContext
from dit_lab.training.loop import peak_memory_bytes
from dit_lab.training.stop import StopSignal

WARM_STEPS = 3  # the first steps allocate memory, select kernels and compile
LOG_EVERY_STEPS = 10
LEAST_STEPS, MOST_STEPS = 2, 400  # per block
MOST_WATCHED = 50
PREPARED_STEPS = 8


@dataclass(frozen=True, slots=True)
class Step:
    """Time and cost of an optimizer step."""

    seconds: Timing
    images: int
    flops: float | None  # forward and backward; None if unknown
    of_products: Turns  # time relative to matrix products of as many FLOP
    peak_memory_bytes: float
    parts: Mapping[str, float]  # seconds per part, with synchronisation after each


class Training:
    """A training that runs a few steps at a time; every block starts with the same images."""

    def __init__(self, config: RunConfig, shapes: Shapes, stop: StopSignal, folder: Path) -> None:
        """Set up the training; its metrics rows are written to `folder`."""
        training = replace(
            config.training, total_steps=MOST_STEPS + 1, log_every_steps=LOG_EVERY_STEPS
        )
        self.config = replace(config, training=training)
        self._together = DistributedContext(
            stop,
            mixed_precision=config.precision.mixed_precision,
            tf32=config.precision.tf32,
            static_graph=config.training.accumulation == 1,
            cpu_offload=config.distributed.cpu_offload,
        )
        self.device = self._together.accelerator.device
        self.parts = build_parts(self.config, shapes, self.device)
        self._objects = training_objects(
            self.parts, self._together, begin=False, on_message=lambda text: None
        )
        self._metrics = folder / "metrics.jsonl"
        cost = model_cost(config, shapes)
        self.images = config.training.global_batch_size
        self.flops = None if cost is None else float(cost.training_flops_per_image * self.images)
        self._run(WARM_STEPS)

    @property
    def batches(self) -> TrainingBatches:
        """The training batches."""
        return self._objects["batches"]

    def weights(self) -> dict[str, Tensor]:
        """Return the current weights, by reference."""
        return self._objects["model"].module.state_dict()

    def prepared(self) -> list[tuple[Tensor, Tensor]]:
        """Return the images and labels of a few steps, on the device."""
        with closing(self.batches.from_step(0)) as steps:
            taken = islice(steps, PREPARED_STEPS)
            return [(b.data.clone(), b.labels.clone()) for step in taken for b in step]

    def steps(self, count: int) -> list[float]:
        """Return the seconds of each of `count` steps, from end of step to end of step."""
        at_end = _AtEnd(Ticks(self.device))
        self._run(count + 1, at_end)
        return at_end.ticks.seconds()

    def block(self, count: int) -> float:
        """Return the seconds per step, the median of `count`."""
        return median(self.steps(count))

    def steps_within(self, seconds: float) -> int:
        """Return how many steps take `seconds`, from LEAST_STEPS to MOST_STEPS."""
        step = sum(self.steps(2)) / 2
        return min(MOST_STEPS, max(LEAST_STEPS, round(seconds / step)))

    def parts_of_a_step(self, count: int) -> dict[str, float]:
        """Return the mean seconds of each part of a step, over `count` steps.

        The device is synchronised after every part, so on a GPU the sum exceeds the time of a step.
        """
        watch = Stopwatch(lambda: settle(self.device))
        compiled = self.config.training.compile
        with watched(self._objects, watch, inside_blocks=not compiled) as objects:
            self._run(count, _Logged(watch, MetricsFile(self._metrics)), objects=objects)
        return {name: seconds / count for name, seconds in watch.seconds.items()}

    def measure(self, seconds: float, products: Products) -> Step:
        """Measure whole steps for half of the time, and their parts for the other half."""
        count = self.steps_within(seconds / 2 / ROUNDS)
        times = list[float]()

        def block() -> float:
            times.extend(taken := self.steps(count))
            return median(taken)

        of_products = by_measure(lambda: products.seconds(self.flops), block)
        peak = peak_memory_bytes()
        parts = self.parts_of_a_step(min(len(times), MOST_WATCHED))
        return Step(Timing.of(times), self.images, self.flops, of_products, peak, parts)

    def _run(self, steps: int, *hooks: Hook, objects: Mapping[str, Any] | None = None) -> None:
        train_steps(
            self.config,
            self._objects if objects is None else objects,
            self._together,
            steps=steps,
            log_every_steps=LOG_EVERY_STEPS,
            hooks=hooks or [MetricsFile(self._metrics)],
        )


@contextmanager
def training_of(config: RunConfig, shapes: Shapes) -> Iterator[Training]:
    """Set up a training for measurements; its files are deleted afterwards."""
    with StopSignal() as stop, tempfile.TemporaryDirectory() as folder:
        yield Training(config, shapes, stop, Path(folder))


class _AtEnd(Hook):
    """Records a timestamp at the end of each step."""

    def __init__(self, ticks: Ticks) -> None:
        self.ticks = ticks

    def on_step(self, step: int) -> None:
        self.ticks.take()


class _Logged(Hook):
    """Times the writing of metrics rows as logging."""

    def __init__(self, watch: Stopwatch, file: MetricsFile) -> None:
        self._watch, self._file = watch, file

    def on_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        with self._watch.section("logging"):
            self._file.on_metrics(step, metrics)
