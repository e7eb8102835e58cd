"""The processes that train together: one accelerator each, and what they have to agree on."""

from __future__ import annotations

import os
from datetime import timedelta

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from accelerate.utils import DistributedType
from torch import distributed, nn

from dit_lab.core.errors import RequestError, StopRequested
from dit_lab.core.processes import MEETING_FILE
from dit_lab.core.team import ALONE, ProcessGroup
from dit_lab.core.types import Team
from dit_lab.training.float8 import in_float8
from dit_lab.training.parallel import ParallelModel, Sharded, Whole, compile_blocks
from dit_lab.training.stop import StopSignal

LONGEST_WAIT = timedelta(days=2)  # of the others, while the first one measures samples

PLAIN = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)


class DistributedContext:
    """This process among those that train together; a single process is a group of one.

    `team` is for the thread that trains, `writers` for the one that writes checkpoints, and
    `snapshot_writers` for the one that writes averages.
    """

    def __init__(
        self,
        stop: StopSignal,
        *,
        mixed_precision: str = "no",
        tf32: bool = False,
        static_graph: bool = False,
        cpu_offload: bool = False,
    ) -> None:
        """Joins the group that RANK, WORLD_SIZE, and MASTER_ADDR and MASTER_PORT (or the file of
        `MEETING_FILE`, on one machine) describe.

        `mixed_precision`: "no", "bf16" or "fp8", which is bf16 but for what blocks multiply.
        `static_graph`: every backward pass sums gradients over the processes. `cpu_offload`:
        tensors in the host's memory are summed as well as those of GPUs.
        """
        self.stop = stop
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = tf32
        several, on_gpus = int(os.environ.get("WORLD_SIZE", "1")) > 1, torch.cuda.is_available()
        self._float8 = mixed_precision == "fp8"
        backend = "cpu:gloo,cuda:nccl" if cpu_offload and on_gpus else None
        if several and MEETING_FILE in os.environ:
            _meet(os.environ[MEETING_FILE], backend or ("nccl" if on_gpus else "gloo"))
        self.accelerator = Accelerator(
            mixed_precision="bf16" if self._float8 else mixed_precision,
            cpu=several and not on_gpus,  # not told so, each would train alone
            kwargs_handlers=[
                InitProcessGroupKwargs(timeout=LONGEST_WAIT, backend=backend),
                DistributedDataParallelKwargs(
                    static_graph=static_graph, gradient_as_bucket_view=True
                ),
            ],
        )
        found = self.accelerator.distributed_type
        if found not in PLAIN:
            raise RequestError(
                f"accelerate: was started for {found.value}, which the lab does not use; leave out "
                "the options and ACCELERATE_USE_... variables that ask for it, and give "
                "distributed=ddp or distributed=fsdp"
            )
        assert self.accelerator.num_processes == int(os.environ.get("WORLD_SIZE", "1"))
        self.team: Team = _gang() if several else ALONE
        self.writers: Team = _gang() if several else ALONE
        self.snapshot_writers: Team = _gang() if several else ALONE

    @property
    def leads(self) -> bool:
        """Whether this process writes, shows and tracks."""
        return self.team.index == 0

    def parallel_model(
        self,
        model: nn.Module,
        *,
        sharded: bool = False,
        processes_per_copy: int | None = None,
        cpu_offload: bool = False,
        compiled: bool = False,
    ) -> ParallelModel:
        """The model to train, on this process's device, whole or in shards. `compiled`: its blocks
        are."""
        if not sharded:
            model = model.to(self.accelerator.device)
            trained = in_float8(model) if self._float8 else model
            if compiled:
                compile_blocks(trained)
            return Whole(model, self.accelerator, trained=trained)
        if compiled:
            compile_blocks(model)
        return Sharded(
            model,
            self.accelerator,
            processes_per_copy=processes_per_copy,
            cpu_offload=cpu_offload,
        )

    def check_stop(self) -> None:
        """Raise StopRequested, in every process at the same step, if one of them was told to stop.

        Signals reach processes at different moments; what they agree on never waits for a device.
        """
        if number := self.team.largest(self.stop.number):
            raise StopRequested(number)


def _meet(file: str, backend: str) -> None:
    """Join the group by a file, before accelerate would by a port that all interfaces listen on."""
    rank, processes = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = distributed.FileStore(file, processes)
    store.set_timeout(LONGEST_WAIT)
    distributed.init_process_group(
        backend, store=store, rank=rank, world_size=processes, timeout=LONGEST_WAIT
    )


def _gang() -> ProcessGroup:
    group = distributed.new_group(backend="gloo", timeout=LONGEST_WAIT)
    assert isinstance(group, distributed.ProcessGroup)  # this process is in every group
    return ProcessGroup(group)
