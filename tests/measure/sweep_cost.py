"""Cost of commands on a sweep of 1,000 finished jobs, and of starting a job.

    python -m tests.measure.sweep_cost --jobs 1000

Prints CPU and wall time and peak memory of `dit-lab sweep status` and `dit-lab report`, each in its
own process, for a quarter of the jobs and for all, and the time for planning and launching a job
besides the job's own process.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from tests.synthetic import finished_sweep

RATES = [f"{n / 1000:g}" for n in range(1, 6)]


@dataclass(frozen=True)
class Cost:
    cpu: float  # seconds
    wall: float
    megabytes: float

    def __str__(self) -> str:
        return f"{self.cpu:.2f} s CPU, {self.wall:.2f} s, {self.megabytes:.0f} MB"


def cost_of(*arguments: str) -> Cost:
    """Return the cost of a whole command."""
    started = time.monotonic()
    with open(os.devnull, "w") as nowhere:
        process = subprocess.Popen([sys.executable, "-m", "dit_lab", *arguments], stdout=nowhere)
        _, status, used = os.wait4(process.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, arguments
    cpu = used.ru_utime + used.ru_stime
    return Cost(cpu, time.monotonic() - started, used.ru_maxrss / 1024)


def _value(job: Mapping[str, str]) -> float:
    return 0.6 + int(job["seed"]) / 1e4


def looking(jobs: int) -> dict[str, Cost]:
    """Return command -> cost for a sweep of that many finished jobs."""
    with tempfile.TemporaryDirectory() as folder:
        axes = {
            "objective": ["rectified_flow", "flow_matching"],
            "optimizer.lr": RATES,
            "seed": [str(seed) for seed in range(jobs // 10)],
        }
        sweep = finished_sweep(
            Path(folder) / "outputs", axes, lambda job: 0.6 + int(job["seed"]) / 1e4
        )
        verbs = {"status": ["sweep", "status"], "report": ["report"]}
        return {name: cost_of(*verb, str(sweep.root)) for name, verb in verbs.items()}


def planning(jobs: int) -> float:
    """Return wall seconds per job, from overrides to the sweep's folder."""
    from dit_lab.sweeps.plan import plan_sweep
    from dit_lab.sweeps.run import find_or_create_sweep

    with tempfile.TemporaryDirectory() as folder:
        axes = ["objective=rectified_flow,flow_matching", "model=pico,nano"]
        data = ["dataset=digits", "codec=identity", "patch=2"]
        rest = ["tracking=none", f"paths.root={folder}", f"seed=range({jobs // 4})"]
        started = time.monotonic()
        find_or_create_sweep(plan_sweep([*axes, *data, *rest]))
        return (time.monotonic() - started) / jobs


class Instant:
    """A process that ends immediately."""

    seconds = 0.0

    def __init__(self, *_: Any, output: Path, **__: Any) -> None:
        output.touch()

    def poll(self) -> int:
        return 0


class Nobody:
    """A watcher that does nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


def launching(jobs: int) -> float:
    """Return wall seconds per job in the launcher, with processes that take no time."""
    from dit_lab.sweeps import launcher
    from dit_lab.sweeps.slots import make_slots

    with tempfile.TemporaryDirectory() as folder, mock.patch.object(launcher, "worker", Instant):
        sweep = finished_sweep(
            Path(folder) / "outputs",
            {"seed": [str(seed) for seed in range(jobs)]},
            _value,
        )
        manifest = sweep.read()
        started = time.monotonic()
        launcher.Launcher(
            folder=sweep,
            manifest=manifest,
            slots=make_slots(["cpu"], jobs_per_slot=1),
            watcher=Nobody(),
            close=print,
            stopping=lambda: False,
        ).run(manifest.jobs)
        return (time.monotonic() - started) / jobs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1000)
    args = parser.parse_args()
    for jobs in (args.jobs // 4, args.jobs):
        for name, cost in looking(jobs).items():
            print(f"{name} of {jobs} jobs: {cost}")
    print(f"planning: {1000 * planning(100):.0f} ms a job, of 100")
    print(f"launching: {1000 * launching(args.jobs):.0f} ms a job, of {args.jobs}")


if __name__ == "__main__":
    main()
