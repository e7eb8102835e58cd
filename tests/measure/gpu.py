"""Speed and memory of DiT-XL/2 on one GPU, compared with targets, in less than nine minutes.

    python -m tests.measure.gpu --out gpu.json [--official-path DiT] [--minutes 9] [KEY=VALUE ...]

Uses random latents with the shape of ImageNet at 256 pixels, in bf16. Every measurement is a
separate `dit-lab bench`, the most important first; measurements without time left are reported as
unmeasured. `KEY=VALUE` is passed to each of them: `model=pico training.global_batch_size=8` tests
the command on a CPU.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

XL = [
    "model=xl", "patch=2", "dataset.num_classes=1000", "dataset.image_size=256",
    "dataset.num_workers=2", "training.global_batch_size=256", "precision=bf16",
]  # fmt: skip
AS_SAMPLED = ["sampler.steps=250", "guidance.scale=4", "guidance.channels=3"]  # by sample.py
COMPILED = ["training.compile=true", "sample.compile=true"]
MEMORY_STEPS = [
    f"model.activation_checkpointing={kept}" for kept in ("none", "selective", "4", "2", "1")
]
"""From no recomputation to all of it."""

SHARE, FASTER, FP8_GAIN = 0.45, 3.0, 1.25
OUT_OF_MEMORY = "OutOfMemoryError"
RATIO = re.compile(r"a sampling step here takes ([\d.]+)")


@dataclass
class Measuring:
    """Runs `dit-lab bench` while there is time."""

    overrides: Sequence[str]  # what was typed; wins
    seconds: float  # for each part of a measurement
    deadline: float
    said: list[str] = field(default_factory=list)

    def bench(self, *options: str, keys: Sequence[str]) -> str | None:
        """Return its output; None, with a note, if there was not enough time or memory."""
        chosen = {text.partition("=")[0]: text for text in (*XL, *keys, *self.overrides)}
        command = [sys.executable, "-m", "dit_lab", "bench", *options, *chosen.values()]
        try:
            done = subprocess.run(
                [*command, "--seconds", str(self.seconds)],
                capture_output=True, text=True, check=False,
                timeout=max(1.0, self.deadline - time.monotonic()),
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            self.said.append(f"no time for: {' '.join(keys)}")
            return None
        if done.returncode:
            reason = (done.stderr.strip() or "no reason").splitlines()[-1]
            self.said.append(f"failed: {' '.join(keys)}: {reason}")
            return None
        return done.stdout

    def record(self, parts: str, *keys: str) -> dict[str, Any] | None:
        """Return the `--json` record of "training" or "training,sampling"."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "bench.json"
            printed = self.bench("--only", parts, "--json", str(file), keys=keys)
            return None if printed is None else json.loads(file.read_text())


def least_recomputed(measuring: Measuring) -> tuple[str, dict[str, Any]] | None:
    """Measure the required batch, with the least activation checkpointing that fits."""
    for kept in MEMORY_STEPS:
        found = measuring.record("training,sampling", *COMPILED, *AS_SAMPLED, kept)
        if found is not None:
            return kept, found
        if OUT_OF_MEMORY not in measuring.said[-1]:
            return None
    return None


def rate(record: dict[str, Any]) -> float:
    """Return images per second in training."""
    return record["training"]["images"] / record["training"]["seconds"]["median"]


def rows(measuring: Measuring, official: Path | None) -> list[tuple[str, str, str]]:
    """Return what was measured, its result and its target."""
    found: list[tuple[str, str, str]] = []
    best = least_recomputed(measuring)
    if best is not None:
        kept, record = best
        reached = record["training"]["flops"] / record["training"]["seconds"]["median"]
        stated = record["stated_rate"]
        share = f", {reached / stated:.1%} of the data sheet's" if stated else ""
        shown = f"{rate(record):.1f} images/s, {reached / 1e12:.1f} TFLOP/s{share}"
        found += [
            ("device", record["circumstances"]["device"], ""),
            ("training, compiled", shown, f"{SHARE:.0%} of the data sheet's"),
            ("its peak memory", f"{record['training']['peak_memory_bytes'] / 2**30:.1f} GiB with "
             f"{kept}", "80 GB"),
            ("a sampling step", f"{record['sampling']['mean_seconds'] * 1e3:.2f} ms", ""),
        ]  # fmt: skip
        eight = measuring.record("training", *COMPILED, kept, "precision=fp8")
        if eight is not None:
            gain = f"{rate(eight) / rate(record):.2f} of bf16's images/s"
            found.append(("training in float8", gain, f"{FP8_GAIN:g}"))
        plain = measuring.record("training", kept)
        if plain is not None:
            gain = f"{rate(plain) / rate(record):.2f} of the compiled one's images/s"
            found.append(("training, not compiled", gain, ""))
    if official is not None:
        keys = [*COMPILED, *AS_SAMPLED, "training.global_batch_size=16"]
        printed = measuring.bench("official", "--official-path", str(official), keys=keys)
        ratio = RATIO.search(printed or "")
        if ratio is not None:
            times = f"{1 / float(ratio[1]):.2f} times its images/s"
            found.append(("sampling, beside the original", times, f"{FASTER:g}"))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--official-path", type=Path)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--seconds", type=float, default=15.0)
    args = parser.parse_args()
    measuring = Measuring(
        overrides=args.overrides,
        seconds=args.seconds,
        deadline=time.monotonic() + 60 * args.minutes,
    )
    found = rows(measuring, args.official_path)
    args.out.write_text(json.dumps({"rows": found, "not measured": measuring.said}, indent=2))
    print("| | measured | aimed at |\n|---|---|---|")
    for row in found:
        print(f"| {' | '.join(row)} |")
    for said in measuring.said:
        print(said)


if __name__ == "__main__":
    main()
