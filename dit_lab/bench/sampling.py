"""Time of sampling: steps of the configured sampler, with guidance, for one chunk of images."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from statistics import mean
from typing import Unpack

from torch import Tensor

from dit_lab.bench.device import Products, Ticks, this_device
from dit_lab.bench.figures import ROUNDS, Timing, Turns, by_measure
from dit_lab.build.cost import model_cost
from dit_lab.build.parts import build_generator, build_model, build_parts, labelled_call
from dit_lab.config.schema import RunConfig
from dit_lab.core.calls import Asked
from dit_lab.core.types import Shapes
from dit_lab.sampling.generate import CHUNK_IMAGES, EvaluationCount

WARM_STEPS, LEAST_STEPS = 2, 5


@dataclass(frozen=True, slots=True)
class Drawing:
    """Time and cost of sampling."""

    seconds: Timing  # per step and chunk
    mean_seconds: float  # steps differ if guidance or model calls skip some
    images: int  # per chunk
    steps: int  # of the sampler
    measured_steps: int  # fewer if time was short
    evaluations: float  # mean NFE per step
    flops: float | None  # per step
    of_products: Turns  # time relative to matrix products of as many FLOP

    @property
    def images_per_second(self) -> float:
        """Images per second without the codec; steps that were not measured count with the mean."""
        return self.images / (self.mean_seconds * self.steps)


class Sampling:
    """Samples a chunk from an untrained model; step times do not depend on the weights."""

    def __init__(self, config: RunConfig, shapes: Shapes) -> None:
        self.device = this_device()
        self.parts = build_parts(config, shapes, self.device)
        self.model = build_model(self.parts).to(self.device).eval()
        self.labelled = labelled_call(self.parts, self.model)
        self._passes = EvaluationCount()
        cost = model_cost(config, shapes)
        self._flops = None if cost is None else 2.0 * cost.forward_macs_per_image
        self._all_steps: int | None = getattr(config.sampler, "steps", None)
        self.steps(WARM_STEPS)

    def steps(self, count: int) -> list[float]:
        """Return the seconds of the sampler's first `count` steps, or of all if there are fewer."""
        ticks, self._passes.images = Ticks(self.device), 0

        def check_stop() -> None:  # called after every step
            ticks.take()
            if len(ticks) > count:
                raise _Enough

        generator = build_generator(self.parts, check_stop=check_stop)
        ticks.take()
        with contextlib.suppress(_Enough):
            generator.latents(self._counted, first=0, seed=0)
        return ticks.seconds()

    def block(self, count: int) -> float:
        """Return the seconds of sampling a chunk, from the mean of `count` steps."""
        times = self.steps(count)
        return mean(times) * (self._all_steps or len(times))

    def steps_within(self, seconds: float) -> int:
        """Return how many steps take `seconds`, at least LEAST_STEPS."""
        return max(LEAST_STEPS, round(seconds / mean(self.steps(LEAST_STEPS))))

    def measure(self, seconds: float, products: Products) -> Drawing:
        """Measure the first steps in several blocks, for about `seconds` in total."""
        count = len(self.steps(self.steps_within(seconds / ROUNDS)))
        passes = self._passes.images / count
        flops = None if self._flops is None else self._flops * passes
        times = list[float]()

        def block() -> float:
            times.extend(taken := self.steps(count))
            return mean(taken)

        of_products = by_measure(lambda: products.seconds(flops), block)
        return Drawing(
            seconds=Timing.of(times),
            mean_seconds=mean(times),
            images=CHUNK_IMAGES,
            steps=self._all_steps or count,
            measured_steps=count,
            evaluations=passes / CHUNK_IMAGES,
            flops=flops,
            of_products=of_products,
        )

    def _counted(self, x: Tensor, time: Tensor, labels: Tensor, **asked: Unpack[Asked]) -> Tensor:
        self._passes(len(x))
        return self.labelled(x, time, labels, **asked)


class _Enough(Exception):  # noqa: N818 - an end, not an error
    """Raised after the requested number of steps."""
