"""The processes that train together: one accelerator each, and one decision when to stop."""

from __future__ import annotations

import os
from datetime import timedelta

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from torch import distributed

from dit_lab.training.stop import StopSignal
from dit_lab.types import StopRequested

LONGEST_WAIT = timedelta(days=2)  # of the others, while the first one draws and measures samples


class Together:
    """This process among those that train together; a single process is a group of one."""

    def __init__(self, mixed_precision: str, stop: StopSignal) -> None:
        """Joins the group that RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT describe."""
        self._stop = stop
        several = int(os.environ.get("WORLD_SIZE", "1")) > 1
        self.accelerator = Accelerator(
            mixed_precision=mixed_precision,
            cpu=several and not torch.cuda.is_available(),  # not told so, each would train alone
            kwargs_handlers=[InitProcessGroupKwargs(timeout=LONGEST_WAIT)],
        )
        self._hosts: distributed.ProcessGroup | None = None
        if several:
            assert self.accelerator.num_processes > 1
            hosts = distributed.new_group(backend="gloo")
            assert isinstance(hosts, distributed.ProcessGroup)  # this process is in every group
            self._hosts = hosts

    def check_stop(self) -> None:
        """Raise StopRequested, in every process at the same step, if one of them was told to stop.

        Signals reach processes at different moments; what they agree on never waits for a device.
        """
        if self._hosts is None:
            self._stop.check()
            return
        number = torch.tensor(self._stop.number)
        distributed.all_reduce(number, distributed.ReduceOp.MAX, group=self._hosts)
        if number > 0:
            raise StopRequested(int(number))

    def check_stop_alone(self) -> None:
        """The same between steps, where the others wait for this process and cannot answer."""
        if self._hosts is None:
            self._stop.check()
