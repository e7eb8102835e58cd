"""How many processes a command works on, and what `distributed` may ask of them. Torch-free."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from dit_lab.core.errors import RequestError
from dit_lab.core.processes import gpus

Config = Mapping[str, Any]

AUTO = "auto"


def check_processes(config: Config) -> None:
    """Refuse what no number of processes could be. Raises RequestError."""
    asked = config["distributed"]
    processes, per_copy = asked["num_processes"], asked["processes_per_copy"]
    if processes != AUTO and (type(processes) is not int or processes < 1):
        raise RequestError(
            f"distributed.num_processes={processes}: expected a count from 1, or auto"
        )
    if processes == 1 and config["choices"].get("distributed") == "ddp":
        raise RequestError(
            "distributed=ddp: one process has nobody to share with; give "
            "distributed.num_processes=N, or distributed=single"
        )
    if asked["cpu_offload"] and not asked["sharded"]:
        raise RequestError(
            "distributed.cpu_offload=true: only shards are kept in the host's memory; use "
            "distributed=fsdp"
        )
    if per_copy is None:
        return
    if not asked["sharded"]:
        raise RequestError(
            f"distributed.processes_per_copy={per_copy}: every process has a copy of its own "
            "unless it is sharded; use distributed=fsdp"
        )
    if processes != AUTO and processes % per_copy:
        raise RequestError(
            f"distributed.processes_per_copy={per_copy}: does not divide "
            f"distributed.num_processes={processes}"
        )


def with_processes(config: Config) -> dict[str, Any]:
    """The configuration with `distributed.num_processes` as a number: what torchrun started, or
    one for each GPU of this machine. Raises RequestError where there is none."""
    asked = config["distributed"]
    if asked["num_processes"] != AUTO:
        return dict(config)
    found = int(os.environ.get("WORLD_SIZE", "0")) or len(gpus())
    if not found:
        raise RequestError(
            "distributed.num_processes=auto: this machine shows no GPU to count; give "
            "distributed.num_processes=N"
        )
    return {**config, "distributed": {**asked, "num_processes": found}}


def check_copies(config: Config) -> None:
    """Refuse shards where nothing is trained. Raises RequestError."""
    check_processes(config)
    if config["distributed"]["sharded"]:
        raise RequestError(
            f"distributed={config['choices']['distributed']}: only training cuts a model into "
            "shards; use distributed=ddp, with the whole model on every process"
        )
