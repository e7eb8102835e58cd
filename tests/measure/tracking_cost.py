"""Cost of tracking: step times with and without MLflow, in interleaved blocks.

    python -m tests.measure.tracking_cost --pairs 12 --steps 400 model=pico

Prints the ratio of the median step times with its 95% interval over the pairs of blocks, and the
share of CPU time of the tracker's thread. Imports and the creation of the store's tables come
before the first block.
"""

from __future__ import annotations

import argparse
import itertools
import math
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean, median, stdev

import torch
from scipy.stats import t

from dit_lab.actions.train import run_training
from dit_lab.config.checks.training import check_data
from dit_lab.config.compose import compose_train
from dit_lab.core.types import Hook

RECIPE = (
    "dataset=digits", "codec=identity", "objective=rectified_flow", "precision=fp32", "patch=2",
    "training.log_every_steps=10", "training.sample_every_steps=0", "evaluation.num_images=0",
    "training.validate_every_steps=0", "training.checkpoint_every_steps=0", "sampler=euler",
    "sampler.steps=1", "sample.num_images=1", "training.global_batch_size=128", "resume=never",
)  # fmt: skip
WARM_UP_STEPS = 20


class Watch(Hook):
    """Records the time of every step, and the CPU time of the tracker's thread."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.tracker_seconds = 0.0

    def on_step(self, step: int) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())

    def on_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        for thread in threading.enumerate():
            if thread.name == "mlflow" and thread.ident is not None:
                clock = time.pthread_getcpuclockid(thread.ident)
                self.tracker_seconds = time.clock_gettime(clock)

    def median_step(self) -> float:
        ends = self.ends[WARM_UP_STEPS:]
        return median(after - before for before, after in itertools.pairwise(ends))


def block(overrides: list[str]) -> tuple[float, float, float]:
    """Return (median step, CPU seconds of the tracker's thread, CPU seconds of the process)."""
    config = compose_train(overrides)
    watch, before = Watch(), time.process_time()
    run_training(config, check_data(config), display=watch, told={})
    return watch.median_step(), watch.tracker_seconds, time.process_time() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        common = [*RECIPE, f"paths.root={Path(folder)}", *args.overrides]
        block([*common, "training.total_steps=30"])
        common.append(f"training.total_steps={args.steps}")
        logs, shares, steps = [], [], []
        for pair in range(args.pairs):
            kinds = ["mlflow", "none"] if pair % 2 else ["none", "mlflow"]
            found = {kind: block([*common, f"tracking={kind}"]) for kind in kinds}
            logs.append(math.log(found["mlflow"][0] / found["none"][0]))
            shares.append(found["mlflow"][1] / found["mlflow"][2])
            steps.append(found["none"][0])
    half = t.ppf(0.975, len(logs) - 1) * stdev(logs) / math.sqrt(len(logs))
    low, ratio, high = (math.exp(fmean(logs) + side) for side in (-half, 0, half))
    print(f"median step {median(steps) * 1000:.2f} ms without tracking")
    print(f"ratio with tracking {ratio:.4f} [{low:.4f}, {high:.4f}] over {len(logs)} pairs")
    print(f"tracker's thread {100 * median(shares):.2f}% of the process's CPU time")


if __name__ == "__main__":
    main()
