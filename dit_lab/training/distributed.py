"""Setup of data-parallel training: process group, accelerator, and agreement on stopping."""

from __future__ import annotations

import os
from datetime import timedelta

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from accelerate.utils import DistributedType
from torch import distributed, nn

from dit_lab.core.errors import RequestError, StopRequested
from dit_lab.core.process_group import SINGLE_PROCESS, TorchProcessGroup
from dit_lab.core.processes import MEETING_FILE
from dit_lab.core.types import ProcessGroup
from dit_lab.training.float8 import in_float8
from dit_lab.training.parallel import ParallelModel, Sharded, Whole, compile_blocks
from dit_lab.training.stop import StopSignal

LONGEST_WAIT = timedelta(days=2)  # while rank 0 evaluates samples

PLAIN = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)


class DistributedContext:
    """This process and its process groups; a single process is a group of one.

    `process_group` serves the training thread, `writers` the thread that writes checkpoints, and
    `snapshot_writers` the thread that writes snapshots of averages.
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
        """Join the group described by RANK, WORLD_SIZE, and MASTER_ADDR and MASTER_PORT.

        On one machine, the file named by `MEETING_FILE` replaces the last two.

        Args:
            stop: stop signal of this process.
            mixed_precision: "no", "bf16", or "fp8", which is bf16 with float8 matrix products in
                blocks.
            tf32: allow TF32 for float32 matrix products and convolutions.
            static_graph: every backward pass synchronises gradients (no gradient accumulation), so
                that DDP's `static_graph` can be used.
            cpu_offload: also reduce tensors in host memory, through gloo.

        Raises:
            RequestError: accelerate was configured for another kind of training.
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
            cpu=several and not on_gpus,  # otherwise, each process would train alone
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
        self.process_group: ProcessGroup = _new_group() if several else SINGLE_PROCESS
        self.writers: ProcessGroup = _new_group() if several else SINGLE_PROCESS
        self.snapshot_writers: ProcessGroup = _new_group() if several else SINGLE_PROCESS

    @property
    def is_main_process(self) -> bool:
        """Whether this process is the main process, which writes, displays and tracks."""
        return self.process_group.index == 0

    def parallel_model(
        self,
        model: nn.Module,
        *,
        sharded: bool = False,
        processes_per_copy: int | None = None,
        cpu_offload: bool = False,
        compiled: bool = False,
    ) -> ParallelModel:
        """Return the model to train, on this process's device.

        Args:
            model: the model, on any device.
            sharded: shard parameters (FSDP) instead of replicating them (DDP).
            processes_per_copy: processes that share one copy of a sharded model; None for all.
            cpu_offload: keep shards, gradients and optimizer state in host memory.
            compiled: compile the blocks.
        """
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
        """Raise StopRequested in all processes at the same step if any received a stop signal.

        Processes receive signals at different times. They agree through a CPU group, without
        waiting for a GPU.
        """
        if number := self.process_group.largest(self.stop.number):
            raise StopRequested(number)


def _meet(file: str, backend: str) -> None:
    """Join the group through a file.

    accelerate would join through a port, which listens on all network interfaces.
    """
    rank, processes = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = distributed.FileStore(file, processes)
    store.set_timeout(LONGEST_WAIT)
    distributed.init_process_group(
        backend, store=store, rank=rank, world_size=processes, timeout=LONGEST_WAIT
    )


def _new_group() -> TorchProcessGroup:
    group = distributed.new_group(backend="gloo", timeout=LONGEST_WAIT)
    assert isinstance(group, distributed.ProcessGroup)  # this process is in every group
    return TorchProcessGroup(group)
