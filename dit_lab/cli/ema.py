"""Compute a post-hoc EMA of any length from the snapshots of a run (EDM2, Karras et al. 2024).

  dit-lab train ... ema.power_stds=[0.05,0.1] ema.snapshot_every_steps=1000
  dit-lab ema RUN --std 0.15
  dit-lab sample run=RUN sample.weights=power:0.15

The length S is relative to the training: 0.1 averages over about a tenth of it.
RUN is a run folder, one of its checkpoint folders, or the id of its MLflow run.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from dit_lab.actions.ema import check_width, make_average
from dit_lab.cli.arguments import path
from dit_lab.core.text import say
from dit_lab.runs.finding import find_run
from dit_lab.runs.folder import step_of
from dit_lab.training.power import name_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN")
    parser.add_argument(
        "--std",
        type=float,
        required=True,
        metavar="S",
        help="relative length of the EMA (EDM2), above 0 and below 0.2887",
    )
    parser.add_argument(
        "--step", type=int, metavar="N", help="step of a snapshot (default the newest)"
    )
    parser.add_argument(
        "--root",
        type=path,
        default=Path("outputs"),
        help="paths.root, where the id of an MLflow run is looked up",
    )


def run(args: argparse.Namespace) -> int:
    check_width(args.std)
    folder, checkpoint = find_run(args.run, root=args.root)
    step = args.step
    if step is None and checkpoint is not None:
        step = step_of(checkpoint)
    made = make_average(folder, args.std, step=step)
    say(
        f"{name_of(args.std)} at step {made.step} from {made.snapshots} "
        f"snapshot{'s' if made.snapshots > 1 else ''}, relative error of its profile "
        f"{made.relative_error:.2g}: {made.file}"
    )
    return 0
