"""Traffic and step time on several devices, against closed forms."""

from __future__ import annotations

from pathlib import Path

import pytest

from dit_lab.core.communication_cost import Traffic, traffic
from dit_lab.core.cost import Cost, StoredActivations
from tests.measure.scaling_plan import MODEL as XL
from tests.measure.scaling_plan import tables
from tests.measure.step_time import Cluster, StepTime, step_time

PAGE = Path(__file__).resolve().parents[2] / "docs/scale.md"

# 100 parameters: 3 blocks of 30, and 10 others.
TINY = Cost(
    tokens=4,
    parameters=100,
    trainable_parameters=100,
    forward_macs_per_image=1,
    training_flops_per_image=6,
    depth=3,
    block_parameters=30,
    kept=StoredActivations(width=1, wide=1, narrow=1, widened=0, products=1),
)
# 1 byte/s between machines, 4 inside, no time until the first byte arrives.
SLOW = {
    "inside_bytes_per_second": 4.0,
    "network_bytes_per_second": 1.0,
    "inside_hop_seconds": 0.0,
    "network_hop_seconds": 0.0,
}


def sent(devices: int, shards: int, *, bf16: bool = True) -> Traffic:
    return traffic(TINY, devices=devices, shards=shards, bf16=bf16)


def test_one_device_sends_nothing() -> None:
    assert sent(1, 1) == Traffic(0, 0, 0, 0)
    step = step_time(XL, Cluster(1), shards=1, batch_size=8, flops_per_second=1e14)
    assert step.step_seconds == pytest.approx(8 * XL.training_flops_per_image / 1e14)
    assert step.efficiency == pytest.approx(1)


def test_ddp_sends_gradients_alone() -> None:
    """2 (N - 1) / N x 4 P."""
    assert sent(2, 1) == Traffic(0, 0, 0, 400)
    assert sent(4, 1).step_bytes() == 600
    assert sent(4, 1).step_bytes(accumulation=3) == 600
    assert traffic(XL, devices=2, shards=1, bf16=True).step_bytes() == 4 * XL.trainable_parameters


def test_fsdp_gathers_twice_and_scatters() -> None:
    """(N - 1) / N of: blocks in bfloat16 and the rest in float32, the blocks again, gradients."""
    assert sent(2, 2) == Traffic((180 + 40) / 2, 180 / 2, 400 / 2, 0)
    assert sent(4, 4) == Traffic(165, 135, 300, 0)
    assert sent(4, 4).step_bytes(accumulation=3) == 3 * 300 + 300
    assert sent(4, 4, bf16=False) == Traffic(300, 270, 300, 0)


def test_hybrid_is_fsdp_in_a_machine_and_ddp_of_shards_between() -> None:
    inside, outside = sent(4, 4), sent(2, 1)
    found = sent(8, 4)
    assert found.replica_bytes == outside.replica_bytes / 4
    assert found.step_bytes() == inside.step_bytes() + outside.step_bytes() / 4


def seconds(devices: int, shards: int) -> StepTime:
    cluster = Cluster(devices, devices_per_machine=2, **SLOW)
    return step_time(TINY, cluster, shards=shards, batch_size=10, flops_per_second=1)


def test_the_slowest_link_counts() -> None:
    # One machine: 400 bytes at 4 a second. Two machines of two: 600 through two network cards.
    assert seconds(2, 1).replica_seconds == 100
    assert seconds(4, 1).replica_seconds == 300
    # FSDP in one machine, and across two.
    assert seconds(2, 2).scatter_seconds == 200 / 4
    assert seconds(4, 4).scatter_seconds == 300 / 2
    # Hybrid: shards inside, halves of the gradients between, through each device's own card.
    hybrid = seconds(4, 2)
    assert (hybrid.scatter_seconds, hybrid.replica_seconds) == (200 / 4, 200 / 1)
    # A network faster than what is inside is not faster.
    fast = Cluster(4, devices_per_machine=2, **SLOW | {"network_bytes_per_second": 100.0})
    step = step_time(TINY, fast, shards=1, batch_size=1, flops_per_second=1)
    assert step.replica_seconds == 600 / 4


def test_what_the_compute_hides() -> None:
    def step(accumulation: int, *parts: float) -> float:
        return StepTime(60.0, accumulation, *parts).step_seconds

    assert step(1, 0, 0, 0, 0) == 60
    assert step(1, 20, 10, 30, 40) == 60  # forward 20, backward 40
    assert step(1, 25, 10, 30, 40) == 65
    assert step(1, 20, 15, 30, 40) == 65  # gathers and scatters wait for each other
    assert step(1, 20, 10, 30, 50) == 70  # replicas do not
    # Two micro-batches of 10 and 20: reduced after the last.
    assert step(2, 10, 20, 0, 0) == 60
    assert step(2, 12, 25, 0, 0) == 2 * 12 + 2 * 25
    assert step(2, 10, 5, 30, 0) == 20 + 20 + 35
    found = StepTime(60.0, 2, 12, 25, 3, 4)
    assert found.efficiency == 60 / found.step_seconds
    assert found.communication_seconds == 2 * 37 + 3 + 4


def test_every_collective_takes_its_hops() -> None:
    """1,000 s for a hop between machines, 1 s for one inside."""
    slow = SLOW | {"inside_hop_seconds": 1.0, "network_hop_seconds": 1000.0}
    cluster = Cluster(8, devices_per_machine=2, **slow)

    def step(shards: int) -> StepTime:
        return step_time(TINY, cluster, shards=shards, batch_size=1, flops_per_second=1)

    # A ring of 8 through 4 machines: 3 hops between and 4 inside, for 3 blocks and the rest.
    assert step(8).scatter_seconds == 350 / 2 + 4 * (3 * 1000 + 4)
    assert step(8).backward_gather_seconds == 180 * 7 / 8 / 2 + 3 * (3 * 1000 + 4)
    # DDP: one bucket, to the first of its machine, up a tree of 4 machines, and back.
    assert step(1).replica_seconds == 700 / 2 + 2 * (2 * 1000 + 1)
    # Hybrid: one hop in the machine; one device of each machine in the tree.
    assert step(2).scatter_seconds == 200 / 4 + 4 * 1
    assert step(2).replica_seconds == 2 * 3 / 4 * 200 + 4 * 2 * 2 * 1000


def test_more_devices_are_never_more_efficient() -> None:
    for shards_of in (lambda n: 1, lambda n: n, lambda n: min(n, 8)):
        found = [
            step_time(
                XL, Cluster(n), shards=shards_of(n), batch_size=4, flops_per_second=4e14
            ).efficiency
            for n in (1, 2, 8, 16, 64, 512)
        ]
        assert found == sorted(found, reverse=True)
        assert 0 < found[-1] < found[0] <= 1


def test_the_page_has_these_tables() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for table in tables():
        assert table in page, "python -m tests.measure.scaling_plan prints it anew"
