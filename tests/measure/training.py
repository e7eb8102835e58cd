"""Speed and memory of training with activation checkpointing, compiled blocks and sharding.

    python -m tests.measure.training --rounds 3 model=micro patch=2 training.global_batch_size=32
    python -m tests.measure.training --rounds 1 --size 32 model=xl patch=2 precision=bf16
    python -m tests.measure.training --largest --size 32 model=xl patch=2 precision=bf16

Every variant is a separate `dit-lab train` on random latents; variants alternate in each round.
Prints the medians of step time and peak memory, and the prediction of `dit_lab.core.cost`. On the
CPU, the memory is that of the process, minus that of a training of `model=pico` on one image.
`--largest`: the largest power of two of images per step that does not run out of memory.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from dit_lab.build.cost import device_memory, model_cost
from dit_lab.config.checks.training import check_data
from dit_lab.config.compose import compose_train
from dit_lab.runs.metrics import read_metrics

HERE = Path(__file__).resolve().parents[2]
DATASET = """\
_target_: tests.measure.latents_like_noise.Noise
image_size: {size}
num_workers: 2
"""
COMMON = [
    "dataset=noise", "codec=identity", "objective=rectified_flow", "tracking=none",
    "trusted_modules=[tests]", "evaluation.num_images=0", "evaluation.loss_images=1",
    "sample.num_images=1", "sampler=euler", "sampler.steps=1", "training.checkpoint_every_steps=0",
    "training.validate_every_steps=0", "training.sample_every_steps=0",
]  # fmt: skip
WAYS = {
    "plain": [],
    "every second block again": ["model.activation_checkpointing=2"],
    "every block again": ["model.activation_checkpointing=1"],
    "selective": ["model.activation_checkpointing=selective"],
    "compiled": ["training.compile=true"],
    "compiled, every block again": ["training.compile=true", "model.activation_checkpointing=1"],
    "shards on one device": ["distributed=fsdp", "distributed.num_processes=1"],
}


@dataclass(frozen=True)
class Measured:
    seconds: float  # of a step, the median of the last three quarters
    peak_bytes: float


def train(folder: Path, overrides: Sequence[str], steps: int) -> Measured | None:
    """Return the result, or None if there was not enough memory."""
    row = max(1, steps // 20)
    command = [
        *COMMON, *overrides, f"training.total_steps={steps}", f"training.log_every_steps={row}",
        "resume=never", "name=measured", "paths.root=outputs",
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "dit_lab", "train", *command],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if "OutOfMemory" in done.stderr or done.returncode == -9:
        return None
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    newest = max(
        folder.glob("outputs/runs/measured/*/metrics.jsonl"), key=lambda f: f.stat().st_mtime
    )
    rows = [r.metrics for r in read_metrics(newest) if "perf/images_per_second" in r.metrics]
    batch = composed(folder, overrides).training.global_batch_size
    late = [batch / r["perf/images_per_second"] for r in rows[len(rows) // 4 :]]
    return Measured(median(late), rows[-1]["perf/peak_memory_bytes"])


def composed(folder: Path, overrides: Sequence[str]) -> dict[str, object]:
    return compose_train([*COMMON, *overrides], config_dirs=[folder / "conf"])


def predicted_bytes(folder: Path, overrides: Sequence[str]) -> float:
    config = composed(folder, overrides)
    size = model_cost(config, check_data(config))
    assert size is not None
    return device_memory(
        config,
        size,
        sharded=config.distributed.sharded,
        activation_checkpointing=config.model.activation_checkpointing,
    ).total_bytes


def compare(folder: Path, overrides: list[str], rounds: int, steps: int) -> None:
    import torch

    base = 0.0
    if not torch.cuda.is_available():
        small = ["model=pico", "patch=2", "training.global_batch_size=1"]
        found = train(folder, [*overrides, *small], 4)
        assert found is not None
        base = found.peak_bytes
    results: dict[str, list[Measured | None]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way, more in WAYS.items():
            results[way].append(train(folder, [*overrides, *more], steps))
            print(way, results[way][-1], flush=True)
    print("| | s a step | of plain | peak, GB | predicted, GB |")
    print("|---|---|---|---|---|")
    plain = median(m.seconds for m in results["plain"] if m)
    for way, more in WAYS.items():
        fitting = [found for found in results[way] if found]
        predicted = predicted_bytes(folder, [*overrides, *more]) / 1e9
        if not fitting:
            print(f"| {way} | out of memory | | | {predicted:.2f} |")
            continue
        seconds = median(found.seconds for found in fitting)
        peak = median(found.peak_bytes - base for found in fitting) / 1e9
        print(f"| {way} | {seconds:.3f} | {seconds / plain:.2f} | {peak:.2f} | {predicted:.2f} |")


def largest(folder: Path, overrides: list[str], steps: int) -> None:
    print("| | images that fit |")
    print("|---|---|")
    for way in ("plain", "every second block again", "every block again", "selective"):
        images = 16
        while train(
            folder, [*overrides, *WAYS[way], f"training.global_batch_size={2 * images}"], steps
        ):
            images *= 2
        print(f"| {way} | {images} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--size", type=int, default=16, help="of the latents")
    parser.add_argument("--largest", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "conf/dataset").mkdir(parents=True)
        (folder / "conf/dataset/noise.yaml").write_text(DATASET.format(size=args.size))
        (folder / "tests").symlink_to(HERE / "tests")
        if args.largest:
            largest(folder, args.overrides, 4)
        else:
            compare(folder, args.overrides, args.rounds, args.steps)


if __name__ == "__main__":
    main()
