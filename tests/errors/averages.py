"""Averages of any width: what training keeps, what is made of it, and what samples them."""

from __future__ import annotations

from pathlib import Path

from tests.errors.case import Area, Case
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


AREA = Area(
    title="Averages of any width",
    cases=(
        Case(
            title="one width alone",
            command=f"{Q} ema.power_stds=[0.1] ema.snapshot_every_steps=2",
            says=r"ema.power_stds=\[0.1\]: expected none, or two or more different numbers above 0",
        ),
        Case(
            title="a width that no average has",
            command=f"{Q} ema.power_stds=[0.1,0.3] ema.snapshot_every_steps=2",
            says=r"ema.power_stds=\[0.1, 0.3\]: expected none, or two or more .* below 0.2887",
        ),
        Case(
            title="averages without snapshots",
            command=f"{Q} ema.power_stds=[0.05,0.1]",
            says=r"ema.snapshot_every_steps=0: averages of ema.power_stds=\[0.05, 0.1\] are only",
        ),
        Case(
            title="snapshots without averages",
            command=f"{Q} ema.snapshot_every_steps=10",
            says="ema.snapshot_every_steps=10: there is nothing to keep where ema.power_stds is em",
        ),
        Case(
            title="averages that the checkpoint does not have",
            command=f"train experiment=tiny {' '.join(POWERS)}",
            start="tiny",
            prepare=killed,
            says=r"ema.power_stds: \S+/step-00000002 was written without .* \[0.05, 0.1\], which",
        ),
        Case(
            title="an average made afterwards, before there is a run",
            command=f"{Q} sample.weights=power:0.1",
            says="sample.weights=power:0.1: not kept; allowed: raw, ema, ema:0.999",
        ),
        Case(
            title="a width that cannot be made",
            command="ema RUN --std 0.3",
            start="averaged",
            says="--std 0.3: no width of an average; give one above 0 and below 0.2887",
        ),
        Case(
            title="a run that kept no averages",
            command="ema RUN --std 0.1",
            start="tiny",
            says="/averages: holds no snapshots of averages; train with ema.power_stds=",
        ),
        Case(
            title="a step without a snapshot",
            command="ema RUN --std 0.1 --step 3",
            start="averaged",
            says="--step 3: no snapshot of that step in .*; the nearest are 2, 4",
        ),
        Case(
            title="a changed byte in a snapshot",
            command="ema RUN --std 0.1",
            start="averaged",
            prepare=in_run(damaged),
            says="damaged snapshot: .*step-00000002/power-0.1.safetensors: content differs",
            slow=True,
        ),
        Case(
            title="a snapshot that was never completed",
            command="ema RUN --std 0.1",
            start="averaged",
            prepare=in_run(unmarked),
            says=r"damaged snapshot: .*step-00000004: incomplete \(no COMPLETE\); move .* away",
            slow=True,
        ),
        Case(
            title="an average that has not been made",
            command=f"{SAMPLE} sample.weights=power:0.1",
            start="averaged",
            says=r"sample.weights=power:0.1: not made yet; dit-lab ema \S+/HASH --std 0.1$",
        ),
        Case(
            title="weights of no width",
            command="evaluate run=RUN sample.weights=power:wide",
            start="averaged",
            says="sample.weights=power:wide: expected a width above 0 and below 0.2887",
        ),
        Case(
            title="an average that is not whole",
            command=f"{SAMPLE} sample.weights=power:0.1",
            start="averaged",
            prepare=in_run(torn),
            says="power-0.1-step-00000004.safetensors: damaged, or of another run .Error while",
            slow=True,
        ),
        Case(
            title="an average of another run",
            command=f"{SAMPLE} sample.weights=power:0.1",
            start="averaged",
            prepare=in_run(of_another),
            says="power-0.1-step-00000004.safetensors: damaged, or of another run .HASH.; make it",
            slow=True,
        ),
    ),
)
