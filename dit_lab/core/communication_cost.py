"""What several devices send each other in an optimizer step.

Formulas, no measurement. Torch-free.

Letters: N devices, S of them share the states between them (the shards), R = N / S replicas of such
a group; P trainable parameters; A micro-batches in a step. S = 1 is DDP, S = N is FSDP, and S = the
devices of a machine is hybrid sharding: only gradients, and 1/S of them, leave the machine.

A ring all-gather or reduce-scatter of B bytes over n devices makes each send (n - 1)/n B, a ring
all-reduce 2 (n - 1)/n B (Patarasuk & Yuan 2009, "Bandwidth Optimal All-reduce Algorithms for
Clusters of Workstations").
"""

from __future__ import annotations

from dataclasses import dataclass

from dit_lab.core.cost import BFLOAT16_BYTES, FLOAT32_BYTES, Cost


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes that one device sends; it receives as many."""

    forward_gather_bytes: float  # of weights, in every micro-batch
    backward_gather_bytes: float  # again, for they were dropped after the forward pass
    scatter_bytes: float  # reduce-scatter of the gradients among the S shards, once in a step
    replica_bytes: float  # all-reduce of a shard's gradients among the R replicas, once in a step

    def step_bytes(self, accumulation: int = 1) -> float:
        """In an optimizer step."""
        gathered = self.forward_gather_bytes + self.backward_gather_bytes
        return accumulation * gathered + self.scatter_bytes + self.replica_bytes


def traffic(model: Cost, *, devices: int, shards: int, bf16: bool) -> Traffic:
    """What each of N devices sends: gathers of the blocks in the precision of the products and of
    the rest in float32, which stays gathered; gradients in float32."""
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
