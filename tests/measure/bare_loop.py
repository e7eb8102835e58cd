"""Overhead of the lab's training loop over the bare computation of a step.

A whole training with tracker, metrics and guards alternates, every few steps, with a bare loop on
the same batches in the same process.

    python -m tests.measure.bare_loop --blocks 30 model=nano

Prints the ratio of the median step times, with the 95% interval of its median over the blocks.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

from dit_lab.actions.train import run_training
from dit_lab.bench.device import Ticks, this_device
from dit_lab.bench.figures import Ratio, Spread
from dit_lab.build.parts import build_parts
from dit_lab.build.training import training_objects
from dit_lab.config.checks.training import check_data
from dit_lab.config.compose import compose_train
from dit_lab.core.types import Hook
from dit_lab.training.distributed import DistributedContext
from dit_lab.training.stop import StopSignal
from tests.measure.tracking_cost import RECIPE

BLOCK_STEPS = 20
WARM_BLOCKS = 1


class BareLoop:
    """The same steps without anything but timestamps at their ends."""

    def __init__(self, config: Mapping[str, Any], stop: StopSignal) -> None:
        context = DistributedContext(
            stop, mixed_precision=config.precision.mixed_precision, tf32=config.precision.tf32
        )
        self._device = context.accelerator.device
        parts = build_parts(config, check_data(config), self._device)
        self._objects = training_objects(parts, context, begin=False, on_message=lambda text: None)
        self._weights = dict(self._objects["model"].module.named_parameters())
        self._trainable = [weight for weight in self._weights.values() if weight.requires_grad]
        self._clip_norm = config.training.clip_norm
        self._steps = self._objects["batches"].from_step(0)

    def close(self) -> None:
        self._steps.close()

    def block(self, count: int) -> float:
        """Return the seconds per step, the median of `count`."""
        ticks = started(self._device)
        for (batch,) in itertools.islice(self._steps, count):
            self._step(batch)
            ticks.take()
        return median(ticks.seconds())

    def _step(self, batch: Any) -> None:
        objects = self._objects
        labels = torch.where(batch.drop_label, objects["null_label"], batch.labels)
        terms = objects["objective"].loss(lambda x, t: objects["model"](x, t, labels), batch)
        terms["loss"].mean().backward()
        nn.utils.clip_grad_norm_(self._trainable, self._clip_norm)
        objects["optimizer"].step()
        objects["optimizer"].zero_grad(set_to_none=True)
        for ema in objects["emas"]:
            ema.update(self._weights, applied=torch.ones(()))


class InTurn(Hook):
    """Times the steps of a training, and calls `other` between blocks of them."""

    def __init__(self, other: Callable[[int], float]) -> None:
        self._other = other
        self._ticks = started(this_device())
        self.times: list[tuple[float, float]] = []  # of the training and of the other, by blocks

    def on_step(self, step: int) -> None:
        self._ticks.take()
        if len(self._ticks) > BLOCK_STEPS:
            self.times.append((median(self._ticks.seconds()), self._other(BLOCK_STEPS)))
            self._ticks = started(this_device())


def started(device: torch.device) -> Ticks:
    """Return ticks with a first timestamp."""
    ticks = Ticks(device)
    ticks.take()
    return ticks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=30)
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args()
    steps = (WARM_BLOCKS + args.blocks) * BLOCK_STEPS
    with tempfile.TemporaryDirectory() as folder, StopSignal() as stop:
        common = [*RECIPE, f"paths.root={Path(folder)}", *args.overrides]
        config = compose_train([*common, f"training.total_steps={steps}"])
        with closing(BareLoop(config, stop)) as bare:
            watch = InTurn(bare.block)
            run_training(config, check_data(config), display=watch, told={})
    lab, of_bare = zip(*watch.times[WARM_BLOCKS:], strict=True)
    for name, times in (("bare", of_bare), ("lab", lab)):
        print(f"{name}: {Spread.of(times)}")
    print(f"the lab's loop, of the bare one's time: {Ratio.of(of_bare, lab)}")


if __name__ == "__main__":
    main()
