"""Steps of few-step objectives beside rectified flow: python -m tests.measure.few_step

Prints CPU times (GPU: wall-clock times) of loss and backward pass, interleaved, as medians and as
ratios to rectified flow, beside the counted ratio of FLOPs, and the peak memory of a process of its
own.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dit_lab.core.calls import LossPasses, ModelCall, Progress, needs_of
from dit_lab.core.cost import cost
from dit_lab.models.dit import DiT
from dit_lab.objectives.consistency import Consistency
from dit_lab.objectives.improved_mean_flow import ImprovedMeanFlow
from dit_lab.objectives.mean_flow import MeanFlow
from dit_lab.objectives.options import COMPONENTS
from dit_lab.objectives.rectified_flow import RectifiedFlow
from dit_lab.objectives.shortcut import Shortcut
from dit_lab.training.batches import Draws, no_draws

SIZES = {"pico": (64, 4, 2), "nano": (128, 8, 4), "S": (384, 12, 6)}
SIDE, CHANNELS, PATCH = 16, 4, 2
KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "rectified_flow": (RectifiedFlow, {}),
    "mean_flow": (MeanFlow, {}),
    "mean_flow, no equal times": (MeanFlow, {"equal_share": 0.0}),
    "mean_flow, no equal times, difference": (
        MeanFlow,
        {"equal_share": 0.0, "derivative": "difference"},
    ),
    "improved_mean_flow": (ImprovedMeanFlow, {}),
    "shortcut": (Shortcut, {}),
    "consistency": (Consistency, {}),
}


def shape(size: str) -> dict[str, Any]:
    width, depth, heads = SIZES[size]
    return {
        "input_size": (SIDE, SIDE), "patch_size": PATCH, "in_channels": CHANNELS,
        "hidden_size": width, "depth": depth, "num_heads": heads, "num_classes": 10,
        "learn_sigma": False,
    }  # fmt: skip


def flops(kind: str, size: str) -> int:
    """Return the counted FLOPs of training on one image."""
    made, options = KINDS[kind]
    target = f"{made.__module__}.{made.__qualname__}"
    component = COMPONENTS["objective"][target](_target_=target, **options)
    passes = getattr(component, "passes", LossPasses())
    counted = cost(**shape(size), needs=needs_of(component), passes=passes)
    return counted.training_flops_per_image


def stepped(kind: str, size: str, batch: int, device: torch.device) -> Callable[[], None]:
    """Return a function that computes one loss and its gradients."""
    made, options = KINDS[kind]
    objective = made(**options)
    model = DiT(**shape(size), **needs_of(objective).arguments()).to(device)
    draws = Draws(
        seed=0,
        purpose="train",
        latent_shape=(CHANNELS, SIDE, SIDE),
        time_from_uniform=objective.time_from_uniform,
        further=getattr(objective, "draws", no_draws),
        label_drop_prob=0.1,
    )
    images = torch.randn(batch, CHANNELS, SIDE, SIDE)
    counters = torch.arange(batch)
    made_batch = draws.batch(images, counters % 10, counters).batch.each(lambda x: x.to(device))
    predict = ModelCall(
        model=model,
        averaged=model,
        labels=made_batch.labels,
        null_label=10,
        progress=Progress(1, 100),
    )

    def step() -> None:
        model.zero_grad()
        objective.loss(predict, made_batch)["loss"].mean().backward()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return step


def most_memory(kind: str, size: str, batch: int) -> float:
    """Return the peak MiB of a process that makes two steps, on the CPU."""
    stepped(kind, size, 1, torch.device("cpu"))()  # the first derivative imports 150 MiB of rules
    step = stepped(kind, size, batch, torch.device("cpu"))
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _peak()
    for _ in range(2):
        step()
    return (_peak() - before) / 1024


def _peak() -> int:
    """Return the peak KiB of this process (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=["pico", "nano"], choices=SIZES)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    context = multiprocessing.get_context("spawn")
    for size in args.sizes:
        steps = {kind: stepped(kind, size, args.batch, device) for kind in KINDS}
        times: dict[str, list[float]] = {kind: [] for kind in KINDS}
        for number in range(args.rounds + 2):
            for kind, step in steps.items():
                start = clock()
                step()
                if number >= 2:
                    times[kind].append(clock() - start)
        base = statistics.median(times["rectified_flow"])
        for kind in KINDS:
            with context.Pool(1) as pool:
                memory = pool.apply(most_memory, (kind, size, args.batch))
            median = statistics.median(times[kind])
            counted = flops(kind, size) / flops("rectified_flow", size)
            print(
                f"{size:5} {kind:38} {1000 * median:8.1f} ms  x {median / base:5.2f}  "
                f"counted x {counted:5.2f}  {memory:7.0f} MiB"
            )


if __name__ == "__main__":
    main()
