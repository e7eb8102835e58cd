"""Show the status of a sweep, or resume it.

  dit-lab sweep status outputs/sweeps/NAME
  dit-lab sweep resume outputs/sweeps/NAME              all unfinished jobs
  dit-lab sweep resume outputs/sweeps/NAME --only failed
  dit-lab sweep resume outputs/sweeps/NAME --only missing     not started, or interrupted

A sweep is resumed with its recorded configuration. For security, options that run code or contact
a server must be repeated: trusted_modules=[...], tracking.uri=..., hydra/launcher=... and its
settings.

`dit-lab train -m` starts a sweep; the same command resumes it too.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dit_lab.build.cost import TrainingSpeed, sweep_seconds
from dit_lab.cli.arguments import say_own_choices
from dit_lab.cli.sweep_table import print_status, watching
from dit_lab.config.axes import check_extras, is_for_launcher
from dit_lab.config.compose import root_option
from dit_lab.config.identity import run_folder
from dit_lab.config.objects import to_tree
from dit_lab.config.yaml_files import to_yaml
from dit_lab.core import trust
from dit_lab.core.errors import RequestError
from dit_lab.core.text import counted, say, say_lines, shell_line
from dit_lab.runs.folder import FINISHED, KILLED, RUNNING
from dit_lab.runs.manifest import find_sweep
from dit_lab.sweeps.finished import finished_before, is_finished
from dit_lab.sweeps.plan import plan_sweep
from dit_lab.sweeps.remarks import remarks
from dit_lab.sweeps.run import ONLY, find_or_create_sweep, resumed, run_sweep
from dit_lab.sweeps.search import best_job
from dit_lab.sweeps.slots import make_slots
from dit_lab.tracking.console import duration
from dit_lab.training.stop import StopSignal

if TYPE_CHECKING:
    from dit_lab.runs.manifest import Manifest, SweepFolder
    from dit_lab.sweeps.plan import Plan

ACTIONS = ("status", "resume")
TAKEN = ("paths.root=", "tracking.uri=")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=ACTIONS)
    parser.add_argument("sweep", metavar="SWEEP", help="its folder, or its name below outputs")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="paths.root=FOLDER, and the options above",
    )
    parser.add_argument(
        "--only", default="failed,missing", metavar="failed|missing", help="which jobs to resume"
    )


def run(args: argparse.Namespace) -> int:
    launcher = [text for text in args.overrides if is_for_launcher(text)]
    unknown = [t for t in args.overrides if not t.startswith(TAKEN) and t not in launcher]
    if unknown:
        raise RequestError(
            f"{unknown[0]}: dit-lab sweep takes paths.root=FOLDER, trusted_modules=[...], "
            "tracking.uri=ADDRESS and hydra/launcher=NAME only"
        )
    check_extras(launcher)
    folder = find_sweep(args.sweep, root=root_option(args.overrides))
    trust.trust_own_store(folder.paths_root)
    if args.action == "status":
        print_status(folder)
        return 0
    return _resume(folder, args.only.split(","), launcher)


def start(args: argparse.Namespace) -> int:
    """Run `dit-lab train -m`: start a new sweep, or resume the one with the same jobs."""
    import os

    if (processes := int(os.environ.get("WORLD_SIZE", "1"))) > 1:
        count = f"distributed.num_processes={processes}"
        command = ("dit-lab", "train", "-m", *args.overrides, count)
        raise RequestError(
            f"-m: every process would start the whole sweep; run `{shell_line(*command)}` without "
            "torchrun or accelerate"
        )
    plan = plan_sweep(args.overrides, config_dirs=args.config_dir)
    if args.cfg:
        say_lines("".join(f"# {note}\n" for note in plan.notes))
        say_lines("---\n".join(to_yaml(to_tree(config)) for config in plan.configs))
        return 0

    say_own_choices(args)
    folder = find_or_create_sweep(plan)
    manifest = folder.read()
    manifest.settings = plan.manifest.settings
    if manifest.status == FINISHED and not manifest.unmade:
        return _show_finished(folder)
    before = finished_before(folder, [job for job in manifest.jobs if job.status != FINISHED])
    for job in manifest.jobs:
        job.status = FINISHED if job.number in before else job.status
    done = sum(job.status == FINISHED for job in manifest.jobs)
    finished = f", {done} already finished" if done else ""
    known = ", resuming it" if manifest.attempted else ""
    jobs = counted(len(manifest.jobs) + manifest.unmade, "job")
    say(f"sweep of {jobs}{finished}: {folder.root}{known}")
    for line in [*remarks(plan), *_estimate(plan, manifest)]:
        say(line)
    try:
        return _run(folder, manifest=plan.manifest)
    except RequestError:
        if manifest.created == plan.manifest.created and not folder.read().attempted:
            _remove(folder)
        raise


def _remove(folder: SweepFolder) -> None:
    """Remove a new sweep in which no job has run, and its parent folders if they are empty."""
    shutil.rmtree(folder.root)
    with suppress(OSError):
        folder.root.parent.rmdir()
        folder.paths_root.rmdir()


def _show_finished(folder: SweepFolder) -> int:
    say(f"already finished: {folder.root} (resume=never trains anew)")
    print_status(folder)
    return 0


def _estimate(plan: Plan, manifest: Manifest) -> list[str]:
    """Return a line with the estimated time of the remaining jobs; [] if a pace is unknown."""
    from statistics import fmean

    pace = TrainingSpeed(Path(plan.configs[0].paths.root))
    each = [
        pace.seconds(config, shapes, trained=is_finished(run_folder(config)))
        for config, shapes in zip(plan.configs, plan.shapes, strict=True)
    ]
    known = [seconds for seconds in each if seconds is not None]
    if len(known) < len(each):
        return []
    if manifest.settings["search"]:
        left = [fmean(known)] * manifest.unmade  # the mean over the corners of the search space
    else:  # jobs with equal weights train once
        of_jobs = zip(manifest.jobs, known, strict=True)
        left = list({job.run: s for job, s in of_jobs if job.status != FINISHED}.values())
    if not left:
        return []
    settings = plan.manifest.settings
    places = {slot.devices for slot in make_slots(settings["slots"], jobs_per_slot=1)}
    total = duration(sweep_seconds(left, places=len(places)))
    return [f"estimated time: {total} ({pace.source})"]


def _resume(folder: SweepFolder, only: Sequence[str], launcher: Sequence[str]) -> int:
    if wrong := [name for name in only if name not in ONLY]:
        raise RequestError(f"--only {wrong[0]}: expected {' or '.join(ONLY)}, or both with a comma")
    manifest = folder.read()
    if manifest.status == FINISHED and not manifest.unmade:
        return _show_finished(folder)
    return _run(folder, manifest=resumed(folder, launcher=launcher), only=only)


def _run(folder: SweepFolder, **how: Any) -> int:
    """Run the remaining jobs; return 0 if every job has finished, else 1."""
    with StopSignal() as stop, watching(folder) as watcher:
        manifest = run_sweep(
            folder,
            watcher=watcher,
            stopping=lambda: stop.requested,
            on_message=watcher.on_message,
            **how,
        )
    print_status(folder)
    if best := best_job(manifest):
        say(best)
    if manifest.status == KILLED:
        saved = all(job.status != RUNNING for job in manifest.jobs)
        done = "stopped: what ran is saved" if saved else "stopped; not all jobs have ended yet"
        say(f"{done}; go on with: {folder.command('resume')}")
        stop.check()
    if manifest.status == FINISHED:
        return 0
    say(f"not all jobs finished; try them again with: {folder.command('resume')}")
    return 1
