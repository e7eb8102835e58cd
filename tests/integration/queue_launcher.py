"""A Hydra launcher with a queue, like a cluster: jobs wait, start late, and run on their own.

The jobs are not children of the process that submits them and outlive it. The queue is the folder
`queue` in the current folder: `queue/<id>` is a job that waits or runs, `queue/place-<n>` is a
slot. The program `squeue` of `install` lists the jobs.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.core.utils import run_job
from hydra.plugins.launcher import Launcher

from tests.integration import zygote

FIRST = """
import os
os.environ["PATH"] = os.getcwd() + os.pathsep + os.environ["PATH"]
from tests.integration import queue_launcher
"""
"""What a command runs that uses it."""

SQUEUE = """#!/bin/sh
for job in queue/[0-9]*; do [ -e "$job" ] && head -1 "$job"; done
exit 0
"""


class Preempted(BaseException):
    """The job returns to the queue."""


@dataclass
class QueueConf:
    _target_: str = "hydra_plugins.queue.QueueLauncher"


class QueueLauncher(Launcher):
    def setup(self, **given: Any) -> None:
        self._given = given

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[Any]:
        name = self._given["config"].hydra.job.name
        ids = [self._submit(name, place, given) for place, given in enumerate(job_overrides)]
        while any(job.exists() for job in ids):
            time.sleep(0.05)
        return []

    def _submit(self, name: str, place: int, overrides: Sequence[str]) -> Path:
        queue = Path("queue")
        number = sum(1 for _ in queue.glob("was-*"))
        (queue / f"was-{number}").touch()
        job = queue / str(number)
        job.write_text(f"{name} {place} {number}\n")
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                try:
                    self._serve(job, overrides)
                except BaseException:
                    traceback.print_exc(file=sys.stderr)
                job.unlink(missing_ok=True)
            os._exit(0)
        os.wait()
        return job

    def _serve(self, job: Path, overrides: Sequence[str]) -> None:
        """Wait for a slot and run the job there, again from the beginning if it is preempted."""
        from dit_lab.sweeps import hydra_worker

        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGUSR2, _preempt)
        zygote.install()
        hydra_worker.ChildProcess = zygote.ForkedChild  # type: ignore[misc]
        loader = self._given["hydra_context"].config_loader
        config = loader.load_sweep_config(self._given["config"], list(overrides))
        with job.open("a") as file:
            file.write(f"{os.getpid()}\n")
        while True:
            with contextlib.suppress(Preempted), _place(job.parent):
                ended = run_job(
                    hydra_context=self._given["hydra_context"],
                    task_function=self._given["task_function"],
                    config=config,
                    job_dir_key="hydra.sweep.dir",
                    job_subdir_key="hydra.sweep.subdir",
                )
                assert ended.return_value is not None  # an error is raised
                return


def _preempt(number: int, frame: object) -> None:
    raise Preempted


@contextlib.contextmanager
def _place(queue: Path) -> Iterator[None]:
    """Occupy a slot."""
    while True:
        for path in queue.glob("place-*"):
            with path.open() as file, contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                yield
                return
        time.sleep(0.05)


def install(folder: Path, *, places: int) -> None:
    """Put an empty queue with `places` slots into a folder, and its `squeue`."""
    (folder / "queue").mkdir()
    for number in range(places):
        (folder / f"queue/place-{number}").touch()
    program = folder / "squeue"
    program.write_text(SQUEUE)
    program.chmod(0o755)


def waiting_or_running(folder: Path) -> list[Path]:
    return sorted((folder / "queue").glob("[0-9]*"))


def held(folder: Path) -> list[Path]:
    """Those of them that have a process of their own, and no longer need who gave them."""
    return [job for job in waiting_or_running(folder) if len(job.read_text().splitlines()) > 1]


def process_of(folder: Path, number: int) -> int:
    """The worker of a job."""
    return int((folder / f"queue/{number}").read_text().splitlines()[1])


def cancel(folder: Path, number: int) -> None:
    """As `scancel` does: the job leaves the queue, and its worker is told to end."""
    worker = process_of(folder, number)
    (folder / f"queue/{number}").unlink()
    os.kill(worker, signal.SIGTERM)


plugins = ModuleType("hydra_plugins")  # Hydra takes no others
plugins.__path__ = []
plugins.queue = sys.modules[__name__]  # type: ignore[attr-defined]
sys.modules |= {"hydra_plugins": plugins, "hydra_plugins.queue": sys.modules[__name__]}
QueueLauncher.__module__ = "hydra_plugins.queue"
ConfigStore.instance().store(group="hydra/launcher", name="queue_slurm", node=QueueConf)
Plugins.instance().register(QueueLauncher)
