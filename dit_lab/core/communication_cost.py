"""Communication volume of an optimizer step on several devices.

Formulas, not measurements. Torch-free.

Letters: N devices, S of which share one sharded copy of the states, so that there are R = N / S
replicas; P trainable parameters; A micro-batches per step. S = 1 is DDP and S = N is FSDP. With S =
the devices of one machine (hybrid sharding), only gradients leave the machine, 1/S of them per
device.

For n devices and B bytes, each device sends (n - 1)/n B in a ring all-gather or reduce-scatter and
2 (n - 1)/n B in a ring all-reduce (Patarasuk & Yuan 2009, "Bandwidth Optimal All-reduce Algorithms
for Clusters of Workstations").
"""

from __future__ import annotations

from dataclasses import dataclass

from dit_lab.core.cost import BFLOAT16_BYTES, FLOAT32_BYTES, Cost


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes that each device sends, and as many that it receives."""

    forward_gather_bytes: float  # parameters, per micro-batch
    backward_gather_bytes: float  # parameters again, freed after the forward pass
    scatter_bytes: float  # reduce-scatter of gradients among the S shards, once per step
    replica_bytes: float  # all-reduce of gradients among the R replicas, once per step

    def step_bytes(self, accumulation: int = 1) -> float:
        """Return the bytes per optimizer step of `accumulation` micro-batches."""
        gathered = self.forward_gather_bytes + self.backward_gather_bytes
        return accumulation * gathered + self.scatter_bytes + self.replica_bytes


def traffic(model: Cost, *, devices: int, shards: int, bf16: bool) -> Traffic:
    """Return the bytes that each of `devices` devices sends.

    Blocks are gathered in the precision of matrix products. All other parameters are gathered in
    float32 and kept through the backward pass. Gradients are float32.
    """
    assert devices % shards == 0
    sent, replicas = (shards - 1) / shards, devices // shards
    product_bytes = BFLOAT16_BYTES if bf16 else FLOAT32_BYTES
    blocks = model.depth * model.block_parameters * product_bytes
    gradients = model.trainable_parameters * FLOAT32_BYTES
    return Traffic(
        forward_gather_bytes=sent * (blocks + model.end_parameters * FLOAT32_BYTES),
        backward_gather_bytes=sent * blocks,
        scatter_bytes=sent * gradients,
        replica_bytes=2 * (replicas - 1) / replicas * gradients / shards,
    )
