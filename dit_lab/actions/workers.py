"""Data-parallel workers: one command in several processes of this machine. Torch-free.

The command starts the workers and waits. Each worker trains its part of every batch, or draws its
part of the images; worker 0 prints, writes and tracks. Workers get the environment variables of
torchrun, so a process that torchrun starts is a worker too. They meet by a file in a private folder
and communicate over the loopback interface, so that they open no port on other interfaces.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dit_lab.config.objects import to_tree
from dit_lab.config.schema import RunConfig
from dit_lab.core.errors import RequestError
from dit_lab.core.files import to_json
from dit_lab.core.processes import MEETING_FILE, ChildProcess, on_loopback, threads_each, worker
from dit_lab.core.text import say
from dit_lab.training.stop import StopSignal

POLL_SECONDS = 0.05
STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM)  # exit codes after a stop signal
GRACE_SECONDS = 10.0  # how long the other workers may take to end after one has failed


def starts_workers(config: RunConfig) -> bool:
    """Return whether this process has to start the configured number of workers.

    Raises:
        RequestError: torchrun started another number of processes than configured.
    """
    asked, started = config.distributed.num_processes, os.environ.get("WORLD_SIZE")
    if started is None:
        return bool(asked > 1)
    if int(started) != asked:
        raise RequestError(
            f"distributed.num_processes={asked}: but {started} processes were started; give "
            f"distributed.num_processes={started}, or leave out torchrun"
        )
    return False


def is_main_process() -> bool:
    """Return whether this is the main process, which prints, writes and tracks."""
    return os.environ.get("RANK", "0") == "0"


def on_workers(verb: str, config: RunConfig, **given: Any) -> int:
    """Run a verb with `distributed.num_processes` workers; return the exit code.

    It is that of the first worker that failed, or else that of worker 0.

    Raises:
        StopRequested: workers ended after this process received a stop signal.
    """
    processes = config.distributed.num_processes
    with tempfile.TemporaryDirectory(prefix="dit-lab-") as place, StopSignal() as stop:
        folder = Path(place)
        task = {"verb": verb, "config": to_tree(config), **given}
        (folder / "task.json").write_text(to_json(task), encoding="utf-8")
        codes = run_together(
            folder,
            environments=[_environment(rank, processes, folder) for rank in range(processes)],
            outputs=[folder / f"worker-{rank}.log" if rank else None for rank in range(processes)],
            stopping=lambda: stop.requested,
        )
        # A failed worker makes the others stop, so its exit code comes before theirs.
        stopped_last = sorted(codes, key=lambda rank: codes[rank] in STOPPED)
        failed = next((rank for rank in stopped_last if codes[rank]), 0)
        if codes[failed]:
            stop.check()
        if failed:
            say(_last_line(folder / f"worker-{failed}.log", failed))
        return codes[failed]


def run_together(
    folder: Path,
    *,
    environments: Sequence[Mapping[str, str]],
    outputs: Sequence[Path | None],
    stopping: Callable[[], bool],
) -> dict[int, int]:
    """Run FOLDER/task.json in one worker process for each environment, in parallel.

    If a worker fails, the others are killed after GRACE_SECONDS.

    Args:
        folder: contains task.json.
        environments: the environment variables of each worker, by rank.
        outputs: the output file of each worker; None means that of this process.
        stopping: returns whether to stop the workers.

    Returns:
        Rank -> exit code, in the order in which the workers ended.
    """
    children = [
        worker(folder, environment=environment, output=output)
        for environment, output in zip(environments, outputs, strict=True)
    ]
    try:
        return _wait(children, stopping)
    finally:
        for child in children:
            child.kill()


def _wait(workers: Sequence[ChildProcess], stopping: Callable[[], bool]) -> dict[int, int]:
    """Return rank -> exit code in the order in which workers ended, without those still running."""
    codes: dict[int, int] = {}
    told, deadline = False, float("inf")
    while len(codes) < len(workers) and time.monotonic() < deadline:
        if stopping() and not told:
            told = True
            for worker in workers:
                worker.stop()
        for rank, worker in enumerate(workers):
            code = worker.poll() if rank not in codes else None
            if code is not None:
                codes[rank] = code if code >= 0 else 128 - code
        if any(codes.values()):
            deadline = min(deadline, time.monotonic() + GRACE_SECONDS)
        time.sleep(POLL_SECONDS)
    return codes


def _environment(rank: int, processes: int, folder: Path) -> dict[str, str]:
    own = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": processes,
        "LOCAL_WORLD_SIZE": processes,
        MEETING_FILE: folder / "meeting",
    }
    threads = {"OMP_NUM_THREADS": str(threads_each(processes))}
    given = {name: str(value) for name, value in own.items()}
    return {**threads, **os.environ, **on_loopback(), **given}


def _last_line(log: Path, rank: int) -> str:
    lines = log.read_text(errors="replace").split("\n") if log.exists() else []
    said = next((line for line in reversed(lines) if line.strip()), "nothing was printed")
    return f"worker {rank}: {said}"
