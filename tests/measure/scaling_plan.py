"""Predicted cost of DiT-XL/2 at 256 pixels on many GPUs, by the formulas of `step_time.py`.

    python -m tests.measure.scaling_plan

prints the tables of docs/scale.md; no training is run.
"""

from __future__ import annotations

from collections.abc import Iterator

from dit_lab.core.communication_cost import traffic
from dit_lab.core.cost import cost, training_memory
from tests.measure.step_time import Cluster, step_time

MODEL = cost(
    input_size=(32, 32), patch_size=2, in_channels=4, hidden_size=1152, depth=28, num_heads=16,
    num_classes=1000,
)  # fmt: skip
PEAK_FLOPS_PER_SECOND = 989e12  # H100 SXM, bfloat16 without sparsity (data sheet)
UTILISATION = 0.4

HEADING = """\
| GPUs | images | on each | | memory, GiB | sent, GB | sending, ms | step, ms | efficiency |
|---|---|---|---|---|---|---|---|---|
"""


def rows(devices: int, images: int) -> Iterator[str]:
    """One for each way of training `images` a step on `devices` GPUs."""
    cluster, batch_size = Cluster(devices), images // devices
    machine = min(devices, cluster.devices_per_machine)
    ways = {"DDP": 1, "FSDP": devices} | ({"hybrid": machine} if devices > machine else {})
    for name, shards in ways.items():
        memory = training_memory(
            MODEL,
            batch_size=batch_size,
            bf16=True,
            num_devices=devices if shards == 1 else shards,
            sharded=shards > 1,
        )
        sent = traffic(MODEL, devices=devices, shards=shards, bf16=True).step_bytes()
        step = step_time(
            MODEL,
            cluster,
            shards=shards,
            batch_size=batch_size,
            flops_per_second=PEAK_FLOPS_PER_SECOND * UTILISATION,
        )
        yield (
            f"| {devices} | {images:,} | {batch_size} | {name} | {memory.total_bytes / 2**30:.1f} "
            f"| {sent / 1e9:.2f} | {step.communication_seconds * 1e3:.1f} "
            f"| {step.step_seconds * 1e3:.1f} | {step.efficiency:.0%} |\n"
        )


def tables() -> Iterator[str]:
    """The same number of images on each GPU, then the same number in a step."""
    for cases in (((8, 256), (64, 2048), (512, 16_384)), ((8, 256), (64, 256))):
        yield HEADING + "".join(line for case in cases for line in rows(*case))


if __name__ == "__main__":
    print("\n".join(tables()))
