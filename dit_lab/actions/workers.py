"""One command on several processes of this machine. Torch-free.

The process that was asked starts the workers and waits; each of them trains its part of every
batch, or draws its part of the images. Worker 0 prints, writes and tracks. What torchrun sets is
set here, so that a command which torchrun started is a worker as well. But workers find each other
by a file in a private folder and talk over the loopback interface, so that none listens on another.
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
from dit_lab.core.processes import MEETING_FILE, Child, on_loopback, threads_each, worker
from dit_lab.core.text import say
from dit_lab.training.stop import StopSignal

POLL_SECONDS = 0.05
STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM)  # exit codes of workers that saved first
GRACE_SECONDS = 10.0  # for the others to end by themselves once one has failed


def starts_workers(config: RunConfig) -> bool:
    """Whether this process has to start others to be as many as the configuration says;
    RequestError where it is one of more or fewer."""
    asked, started = config.distributed.num_processes, os.environ.get("WORLD_SIZE")
    if started is None:
        return bool(asked > 1)
    if int(started) != asked:
        raise RequestError(
            f"distributed.num_processes={asked}: but {started} processes were started; give "
            f"distributed.num_processes={started}, or leave out torchrun"
        )
    return False


def leads() -> bool:
    """Whether this process prints, writes and tracks: alone, or as the first of several."""
    return os.environ.get("RANK", "0") == "0"


def on_workers(verb: str, config: RunConfig, **given: Any) -> int:
    """Let `distributed.num_processes` workers do what a verb does with a configuration; the exit
    code of worker 0, or of the one that failed first. Raises StopRequested."""
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
        stopped_last = sorted(codes, key=lambda rank: codes[rank] in STOPPED)  # by one that failed
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
    """Do what FOLDER/task.json says once in every environment, all at once; rank -> exit code, in
    the order in which they ended. Where one fails the others are ended soon after."""
    children = [
        worker(folder, environment=environment, output=output)
        for environment, output in zip(environments, outputs, strict=True)
    ]
    try:
        return _wait(children, stopping)
    finally:
        for child in children:
            child.kill()


def _wait(workers: Sequence[Child], stopping: Callable[[], bool]) -> dict[int, int]:
    """Rank -> exit code, in the order in which they ended; those that had to be ended are left
    out."""
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
