"""Predicted time of an optimizer step on several machines, by formulas; nothing is run.

`core/communication_cost` computes the bytes and explains the symbols.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from dit_lab.core.communication_cost import traffic
from dit_lab.core.cost import FLOAT32_BYTES, Cost

BUCKET_BYTES = 25 * 2**20  # of gradients that DDP reduces at once, torch's default


@dataclass(frozen=True, slots=True)
class Cluster:
    """Machines of equal devices; rates in one direction, of one device.

    The defaults are an NVIDIA DGX H100: 18 NVLinks of 25 GB/s and a network card of 400 Gbit/s for
    each device (data sheet), and what NCCL assumes of a ring's latencies (src/graph/tuning.cc, the
    protocol LL128).
    """

    devices: int
    devices_per_machine: int = 8
    inside_bytes_per_second: float = 450e9
    network_bytes_per_second: float = 50e9
    inside_hop_seconds: float = 1.9e-6
    network_hop_seconds: float = 4.0e-6


@dataclass(frozen=True, slots=True)
class StepTime:
    """Seconds of an optimizer step; gathers are of one micro-batch, all else of the whole step."""

    compute_seconds: float
    accumulation: int
    forward_gather_seconds: float
    backward_gather_seconds: float
    scatter_seconds: float
    replica_seconds: float

    @property
    def step_seconds(self) -> float:
        """With f and b = 2 f the compute of a micro-batch, forward and backward,

            step = A max(f, gather_f) + (A - 1) max(b, gather_b)
                   + max(b, gather_b + scatter, replica).

        What is sent while the device computes costs nothing, the excess is waited for. Gathers and
        scatters wait for each other; replicas use other links.
        """
        forward = self.compute_seconds / (3 * self.accumulation)
        backward = 2 * forward
        last = self.backward_gather_seconds + self.scatter_seconds
        return (
            self.accumulation * max(forward, self.forward_gather_seconds)
            + (self.accumulation - 1) * max(backward, self.backward_gather_seconds)
            + max(backward, last, self.replica_seconds)
        )

    @property
    def communication_seconds(self) -> float:
        """Communication time of a step without overlap with computation."""
        gathers = self.forward_gather_seconds + self.backward_gather_seconds
        return self.accumulation * gathers + self.scatter_seconds + self.replica_seconds

    @property
    def efficiency(self) -> float:
        """compute / step: the fraction of the step in which the device computes, at most 1."""
        return self.compute_seconds / self.step_seconds


def step_time(
    model: Cost,
    cluster: Cluster,
    *,
    shards: int,
    batch_size: int,
    flops_per_second: float,
    accumulation: int = 1,
    bf16: bool = True,
) -> StepTime:
    """Predict the step time for `batch_size` images per device and forward pass.

    `flops_per_second` is the achieved rate of a device: its peak times the utilisation. There is no
    recomputation; the optimizer and the data take no time.
    """
    sent = traffic(model, devices=cluster.devices, shards=shards, bf16=bf16)
    gathering = _Group(cluster, size=shards, stride=1)
    replicas = _Group(cluster, size=cluster.devices // shards, stride=shards)
    groups = model.depth + 1  # each block, and the rest
    buckets = math.ceil(model.trainable_parameters * FLOAT32_BYTES / BUCKET_BYTES)
    images = accumulation * batch_size
    return StepTime(
        compute_seconds=images * model.training_flops_per_image / flops_per_second,
        accumulation=accumulation,
        forward_gather_seconds=gathering.ring_seconds(sent.forward_gather_bytes, groups),
        backward_gather_seconds=gathering.ring_seconds(sent.backward_gather_bytes, model.depth),
        scatter_seconds=gathering.ring_seconds(sent.scatter_bytes, groups),
        replica_seconds=replicas.all_reduce_seconds(
            sent.replica_bytes, buckets if shards == 1 else groups
        ),
    )


@dataclass(frozen=True, slots=True)
class _Group:
    """Every `stride`-th device, `size` in all, that communicate with each other."""

    cluster: Cluster
    size: int
    stride: int

    @property
    def in_a_machine(self) -> int:
        return min(self.size, max(1, self.cluster.devices_per_machine // self.stride))

    @property
    def machines(self) -> int:
        assert self.size % self.in_a_machine == 0
        return self.size // self.in_a_machine

    @property
    def bytes_per_second(self) -> float:
        """Bandwidth of the slowest link.

        Traffic between machines passes once, in as many rings as the group has devices, and so
        network cards, per machine.
        """
        inside = self.cluster.inside_bytes_per_second
        network = self.in_a_machine * self.cluster.network_bytes_per_second
        if self.machines == 1:
            return inside
        return network if self.in_a_machine == 1 else min(inside, network)

    def ring_seconds(self, sent_bytes: float, collectives: int) -> float:
        """Return the time of consecutive all-gathers or reduce-scatters, by rings."""
        between = self.machines - 1
        hops = (
            between * self.cluster.network_hop_seconds
            + (self.size - 1 - between) * self.cluster.inside_hop_seconds
        )
        return sent_bytes / self.bytes_per_second + collectives * hops

    def all_reduce_seconds(self, sent_bytes: float, collectives: int) -> float:
        """Return the time of consecutive all-reduces.

        They go through the devices of a machine, then a tree of machines, and back, as in NCCL for
        long rings.
        """
        hops = 2 * (
            math.ceil(math.log2(self.machines)) * self.cluster.network_hop_seconds
            + (self.in_a_machine - 1) * self.cluster.inside_hop_seconds
        )
        return sent_bytes / self.bytes_per_second + collectives * hops
