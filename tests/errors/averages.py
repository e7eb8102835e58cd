"""Errors of post-hoc EMA: snapshots, reconstruction, and sampling from it."""

from __future__ import annotations

from pathlib import Path

from tests.errors.case import Case, heavy
from tests.errors.starts import POWERS, flip, in_run, killed

Q = "train experiment=quickstart"
SAMPLE = "sample run=RUN out=a.png"


def damaged(run: Path) -> None:
    flip(run / "averages/step-00000002/power-0.1.safetensors")


def unmarked(run: Path) -> None:
    (run / "averages/step-00000004/COMPLETE").unlink()


def torn(run: Path) -> None:
    (run / "averages/power-0.1-step-00000004.safetensors").write_bytes(b"half of")


def of_another(run: Path) -> None:
    import torch
    from safetensors.torch import save_file

    file = run / "averages/power-0.1-step-00000004.safetensors"
    save_file({"w": torch.zeros(1)}, file, {"run": "0" * 12})


# fmt: off
CASES = (
    Case("one width alone", f"{Q} ema.power_stds=[0.1] ema.snapshot_every_steps=2",
         r"ema.power_stds=\[0.1\]: expected none, or two or more different numbers above 0"),
    Case("a width that no average has", f"{Q} ema.power_stds=[0.1,0.3] ema.snapshot_every_steps=2",
         r"ema.power_stds=\[0.1, 0.3\]: expected none, or two or more .* below 0.2887"),
    Case("averages without snapshots", f"{Q} ema.power_stds=[0.05,0.1]",
         r"ema.snapshot_every_steps=0: post-hoc EMA with ema.power_stds=\[0.05, 0.1\] ne"),
    Case("snapshots without averages", f"{Q} ema.snapshot_every_steps=10",
         "ema.snapshot_every_steps=10: there are no averages to keep, since ema.power_stds"),
    Case("averages that the checkpoint does not have", f"train experiment=tiny {' '.join(POWERS)}",
         r"ema.power_stds: \S+/step-00000002 was written without .* \[0.05, 0.1\], which",
         start="tiny", prepare=killed),
    Case("a width that cannot be made", "ema RUN --std 0.3",
         "--std 0.3: no possible length of an EMA; give one above 0 and below",
         start="averaged"),
    Case("a run that kept no averages", "ema RUN --std 0.1",
         "/averages: holds no snapshots of averages; train with ema.power_stds=", start="tiny"),
    Case("a step without a snapshot", "ema RUN --std 0.1 --step 3",
         "--step 3: no snapshot of that step in .*; the nearest are 2, 4", start="averaged"),
    heavy("a changed byte in a snapshot", "ema RUN --std 0.1",
         "damaged snapshot: .*step-00000002/power-0.1.safetensors: content differs",
         start="averaged", prepare=in_run(damaged)),
    heavy("a snapshot that was never completed", "ema RUN --std 0.1",
         r"damaged snapshot: .*step-00000004: incomplete \(no COMPLETE\); move .* away",
         start="averaged", prepare=in_run(unmarked)),
    Case("an average that has not been made", f"{SAMPLE} sample.weights=power:0.1",
         r"sample.weights=power:0.1: not made yet; dit-lab ema \S+/HASH --std 0.1$",
         start="averaged"),
    Case("weights of no width", "evaluate run=RUN sample.weights=power:wide",
         "sample.weights=power:wide: expected a width above 0 and below 0.2887", start="averaged"),
    heavy("an average that is not whole", f"{SAMPLE} sample.weights=power:0.1",
         "power-0.1-step-00000004.safetensors: damaged, or of another run .Error while",
         start="averaged", prepare=in_run(torn)),
    heavy("an average of another run", f"{SAMPLE} sample.weights=power:0.1",
         "power-0.1-step-00000004.safetensors: damaged, or of another run .HASH.; make it",
         start="averaged", prepare=in_run(of_another)),
)
