"""Checks of what this machine offers: processes, number formats and folders. Torch-free."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from shutil import which

from dit_lab.config.schema import RunConfig
from dit_lab.core.errors import RequestError
from dit_lab.core.files import may_write
from dit_lab.core.processes import gpus
from dit_lab.runs.folder import RunFolder

AUTO = "auto"


def check_processes(config: RunConfig) -> None:
    """Raise RequestError for settings that no number of processes could satisfy."""
    asked = config.distributed
    processes, per_copy = asked.num_processes, asked.processes_per_copy
    if processes != AUTO and (type(processes) is not int or processes < 1):
        raise RequestError(
            f"distributed.num_processes={processes}: expected a count from 1, or auto"
        )
    if processes == 1 and config.choices.get("distributed") == "ddp":
        raise RequestError(
            "distributed=ddp: needs at least two processes; give "
            "distributed.num_processes=N, or distributed=single"
        )
    if asked.cpu_offload and not asked.sharded:
        raise RequestError(
            "distributed.cpu_offload=true: CPU offload needs sharding; use distributed=fsdp"
        )
    if per_copy is None:
        return
    if not asked.sharded:
        raise RequestError(
            f"distributed.processes_per_copy={per_copy}: hybrid sharding needs sharding; use "
            "distributed=fsdp"
        )
    if processes != AUTO and processes % per_copy:
        raise RequestError(
            f"distributed.processes_per_copy={per_copy}: does not divide "
            f"distributed.num_processes={processes}"
        )


def with_processes(config: RunConfig) -> RunConfig:
    """Return the configuration with `distributed.num_processes` as a number.

    It is the world size under torchrun, or else the number of GPUs. Raises RequestError without
    GPUs.
    """
    asked = config.distributed
    if asked.num_processes != AUTO:
        return config
    found = int(os.environ.get("WORLD_SIZE", "0")) or len(gpus())
    if not found:
        raise RequestError(
            "distributed.num_processes=auto: this machine shows no GPU to count; give "
            "distributed.num_processes=N"
        )
    return replace(config, distributed=replace(asked, num_processes=found))


def check_copies(config: RunConfig) -> None:
    """Raise RequestError for sharding in commands that do not train."""
    check_processes(config)
    if config.distributed.sharded:
        raise RequestError(
            f"distributed={config.choices['distributed']}: sharding is for training only; use "
            "distributed=ddp"
        )


def check_root(config: RunConfig) -> None:
    """Raise RequestError for a paths.root that is not writable or is inside the data folder."""
    root, data = config.paths.root, getattr(config.dataset, "root", None)
    if data and Path(root).is_relative_to(data):
        raise RequestError(
            f"paths.root={root}: lies inside dataset.root={data}, so results would count as data; "
            "choose another"
        )
    check_writable("paths.root", Path(root))


def check_writable(key: str, path: Path) -> None:
    """Raise RequestError for a folder that is not writable, by trying. Leaves nothing behind."""
    existing = next(parent for parent in (path, *path.parents) if parent.exists())
    if not existing.is_dir():
        raise RequestError(f"{key}={path}: {existing} is a file; choose a folder")
    try:
        with tempfile.TemporaryDirectory(dir=existing, prefix=".dit-lab-"):
            pass
    except OSError as error:
        raise RequestError(
            f"{key}={path}: cannot write in {existing} ({error.strerror}); choose another"
        ) from None


def check_own(folder: RunFolder) -> None:
    """Raise RequestError for a run folder to which this user cannot write."""
    for place in (folder.root, folder.checkpoints, folder.lease):
        if not may_write(place):
            raise RequestError(
                f"{folder.root}: this user cannot write to {place.name}; give another paths.root "
                "or name, or let the owner go on with the run"
            )


def check_new(what: str, out: Path) -> None:
    """Raise RequestError for a path that exists or cannot be created.

    `what` is the prefix that it was given with, such as "--out ".
    """
    if out.exists():
        raise RequestError(f"{what}{out}: exists already; choose another name, or move it away")
    check_parent(what, out)


def check_file(what: str, out: Path) -> None:
    """Raise RequestError for a file path that is a folder, or in a folder that is not writable."""
    if out.is_dir():
        raise RequestError(f"{what}{out}: is a folder; give the name of a file")
    check_parent(what, out)


def check_folder(key: str, out: Path) -> None:
    """Raise RequestError for a results folder that is unwritable or contains the current one."""
    if Path.cwd().is_relative_to(out.resolve()):
        raise RequestError(
            f"{key}={out}: the current folder lies there, and what is written would lie among its "
            "files; name a folder of its own"
        )
    check_writable(key, out)


def check_parent(what: str, out: Path) -> None:
    """Raise RequestError for a path in a folder that does not exist or is not writable."""
    parent = out.absolute().parent
    if not parent.is_dir():
        raise RequestError(f"{what}{out}: the folder {parent} does not exist; create it first")
    if not os.access(parent, os.W_OK):
        raise RequestError(f"{what}{out}: no right to write in {parent}; choose another place")


def check_float8(config: RunConfig) -> None:
    """Raise RequestError for float8 training with sharding or without torchao."""
    if config.precision.mixed_precision != "fp8":
        return
    if config.distributed.sharded:
        raise RequestError(
            f"distributed={config.choices['distributed']}: precision=fp8 is for whole models; "
            "use distributed=ddp, or precision=bf16"
        )
    if find_spec("torchao") is None:
        raise RequestError(
            "precision=fp8: needs torchao, which is not installed; pip install 'dit-lab[fp8]', or "
            "use precision=bf16"
        )


def check_compiler(config: RunConfig) -> None:
    """Raise RequestError for compiled blocks if there is no C++ compiler."""
    compilers = (os.environ.get("CXX", "g++"), "clang++")
    for group in ("training", "sample"):
        if getattr(config, group).compile and not any(which(name) for name in compilers):
            raise RequestError(
                f"{group}.compile=true: torch.compile needs a C++ compiler, and neither g++ nor "
                "clang++ is here; install one, or leave it out"
            )
