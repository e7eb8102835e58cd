"""A process that another command has started: `python -m dit_lab worker FOLDER`.

FOLDER/task.json has the keys "verb", "config", and further arguments of the verb's function `work`.
The folder of a sweep's job has no such file: its config is trained and evaluated as the sweep
defines.
"""

from __future__ import annotations

import argparse
import importlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from dit_lab.cli import train
from dit_lab.cli.arguments import path
from dit_lab.config.objects import to_config
from dit_lab.config.schema import RunConfig
from dit_lab.core import trust
from dit_lab.core.processes import end_with_the_parent
from dit_lab.core.text import say
from dit_lab.runs.folder import RunFolder, read_json
from dit_lab.runs.lock import Busy, Watch
from dit_lab.runs.manifest import SweepFolder
from dit_lab.sweeps.children import command_of
from dit_lab.sweeps.job import Task, measure, read_task
from dit_lab.tracking.notes import COMMAND
from dit_lab.training.stop import StopSignal

TASK = "task.json"
LOOK_SECONDS = 0.5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=path, metavar="FOLDER")


def run(args: argparse.Namespace) -> int:
    """Run the task of the folder; stop if the parent process exits."""
    end_with_the_parent()
    if not (args.folder / TASK).exists():
        return _job(args.folder)
    task = read_json(args.folder / TASK)
    verb = importlib.import_module(f"dit_lab.cli.{task.pop('verb')}")
    config = to_config(verb.CONFIG, task.pop("config"))
    if isinstance(config, RunConfig):
        trust.trust_own_store(config.paths.root)
    code: int = verb.work(config, **task)
    return code


def _job(folder: Path) -> int:
    task = read_task(folder)
    tags = {**task.tags, COMMAND: command_of(SweepFolder(folder.parents[1]).read())}
    while (code := _trained(task, tags)) is None:
        with StopSignal() as stop:
            _wait(task.run, stop.check)
    if code == 0:
        with StopSignal() as stop:
            measure(task, check_stop=stop.check, on_message=say)
    return code


def _trained(task: Task, tags: Mapping[str, str]) -> int | None:
    """Train a job and return the exit code, or None if another process trains the run now."""
    try:
        return train.work(task.config, overrides=task.job.overrides, tags=tags, measures=False)
    except Busy as other:
        say(f"{other}; waiting for it")
        return None


def _wait(run: RunFolder, check_stop: Callable[[], None]) -> None:
    """Wait until no process writes to the run."""
    watch = Watch(run.lease)
    while watch.is_held():
        check_stop()
        time.sleep(LOOK_SECONDS)
