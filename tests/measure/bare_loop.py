"""What the lab's loop costs beside the mathematics of a step: whole trainings, tracker, metrics and
guards included, against a bare loop on the same batches, in alternating blocks.

    python -m tests.measure.bare_loop --blocks 12 --steps 60 model=nano

Prints the ratio of the median step times, with the 95% interval of its median over the blocks.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

from dit_lab.bench.figures import Ratio, Spread
from dit_lab.lab import compose
from dit_lab.lab.checks import check_data
from dit_lab.lab.config import compose_train
from dit_lab.lab.learning import learning
from dit_lab.training.stop import StopSignal
from dit_lab.training.together import Together
from tests.measure.tracking_cost import RECIPE, Watch

WARM_UP_STEPS = 20


def by_the_lab(config: Mapping[str, Any]) -> float:
    """Median seconds of a step of a training with everything."""
    from dit_lab.lab.train import run_training

    watch = Watch()
    run_training(config, check_data(config), display=watch, told={})
    return watch.median_step()


def bare(config: Mapping[str, Any]) -> float:
    """The same steps with nothing around them but the time of their ends."""
    with StopSignal() as stop:
        together = Together(stop, **config["precision"])
        parts = compose.build_parts(config, check_data(config), together.accelerator.device)
        learns = learning(parts, together, begin=False, on_message=lambda text: None)
        model, objective, optimizer = (learns[name] for name in ("model", "objective", "optimizer"))
        weights = dict(model.module.named_parameters())
        trainable = [weight for weight in weights.values() if weight.requires_grad]
        ends = []
        with closing(learns["batches"].from_step(0)) as steps:
            for (batch,) in itertools.islice(steps, config["training"]["total_steps"]):
                labels = torch.where(batch.drop_label, learns["null_label"], batch.labels)
                terms = objective.loss(lambda x, t, labels=labels: model(x, t, labels), batch)
                terms["loss"].mean().backward()
                nn.utils.clip_grad_norm_(trainable, config["training"]["clip_norm"])
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                for ema in learns["emas"]:
                    ema.update(weights, applied=torch.ones(()))
                ends.append(time.perf_counter())
        return median(b - a for a, b in itertools.pairwise(ends[WARM_UP_STEPS:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args()
    times: dict[str, list[float]] = {"bare": [], "lab": []}
    with tempfile.TemporaryDirectory() as folder:
        common = [*RECIPE, f"paths.root={Path(folder)}", *args.overrides]
        config = compose_train([*common, f"training.total_steps={args.steps}"])
        by_the_lab(compose_train([*common, "training.total_steps=30"]))
        for block in range(args.blocks):
            ways = [("bare", bare), ("lab", by_the_lab)]
            for name, way in ways if block % 2 else reversed(ways):
                times[name].append(way(config))
    for name, of_it in times.items():
        print(f"{name}: {Spread.of(of_it)}")
    print(f"the lab's loop, of the bare one's time: {Ratio.of(times['bare'], times['lab'])}")


if __name__ == "__main__":
    main()
