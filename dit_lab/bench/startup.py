"""Start-up times of commands and of a training's first step, each in a new process. Torch-free."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from dit_lab.bench.record import FIRST_STEP, IMPORT
from dit_lab.core.errors import RequestError
from dit_lab.runs.metrics import read_metrics

ONLY_ONE = [
    "training.total_steps=1", "training.log_every_steps=1", "evaluation.num_images=0",
    "evaluation.loss_images=1", "sample.num_images=1", "sampler=auto", "tracking=none",
    "resume=never", "name=bench",
]  # fmt: skip
"""Overrides that reduce a training to its first step."""


def measure_startup(
    overrides: Sequence[str],
    config_dirs: Sequence[Path],
    *,
    repeats: int,
    leave_out: Collection[str] = (),
) -> dict[str, list[float]]:
    """Return the seconds of each start, by what is started.

    Args:
        overrides: the overrides of the config.
        config_dirs: folders of further configs.
        repeats: number of starts of each kind.
        leave_out: kinds to skip.

    Raises:
        RequestError: if a command fails.
    """
    dirs = [f"--config-dir={folder}" for folder in config_dirs]
    lab = [sys.executable, "-m", "dit_lab"]
    composed = [*lab, "train", *overrides, "--cfg", "job", *dirs]

    def of(command: Sequence[str]) -> Callable[[], float]:
        return lambda: _seconds(command)

    ways: dict[str, Callable[[], float]] = {
        "help": of([*lab, "--help"]),
        "composed configuration": of(composed),
        IMPORT: of([sys.executable, "-c", "import torch"]),
        FIRST_STEP: lambda: _first_step([*lab, "train", *overrides], dirs),
    }
    measured = [name for name in ways if name not in leave_out]
    times = [{name: ways[name]() for name in measured} for _ in range(repeats)]
    return {name: [time[name] for time in times] for name in measured}


def _seconds(command: Sequence[str]) -> float:
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RequestError(done.stderr.strip().removeprefix("dit-lab: "))
    return time.perf_counter() - start


def _first_step(command: Sequence[str], dirs: Sequence[str]) -> float:
    """Return the seconds from process start to the metrics row of the first step."""
    with tempfile.TemporaryDirectory() as root:
        start = time.time()
        _seconds([*command, *ONLY_ONE, f"paths.root={root}", *dirs])
        (file,) = Path(root).glob("runs/bench/*/metrics.jsonl")
        return read_metrics(file)[0].seconds - start
