"""Running of a planned sweep, from the beginning or after an interruption."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from dit_lab.actions.doctor import NOT_OURS, close_run
from dit_lab.config.identity import move_aside, run_folder
from dit_lab.config.objects import to_tree
from dit_lab.config.recorded import recorded_overrides
from dit_lab.core.errors import RequestError
from dit_lab.core.files import may_write, remove_leftovers
from dit_lab.core.text import shell_line
from dit_lab.report.arm_sentences import new_steps
from dit_lab.report.question import report_on_sweep
from dit_lab.report.sentences import answer
from dit_lab.runs.folder import FAILED, FINISHED, KILLED, RUNNING
from dit_lab.runs.lock import Lease, holder_of
from dit_lab.runs.manifest import PENDING, Job, Manifest, SweepFolder, all_sweeps, new_sweep
from dit_lab.sweeps.attempts import refresh_job_statuses
from dit_lab.sweeps.finished import finished_before, settle
from dit_lab.sweeps.hydra_launcher import HydraLauncher
from dit_lab.sweeps.job import job_config
from dit_lab.sweeps.launcher import Launcher, Watcher, record_end
from dit_lab.sweeps.plan import Plan
from dit_lab.sweeps.search import next_jobs
from dit_lab.sweeps.slots import make_slots
from dit_lab.sweeps.tracker import tell_end, tell_late, tell_start

ONLY = {"failed": (FAILED,), "missing": (PENDING, RUNNING, KILLED)}
"""The values of `--only`, and the job statuses that each selects."""


def find_or_create_sweep(plan: Plan) -> SweepFolder:
    """Return the folder of the newest sweep with exactly these jobs, or else of a new sweep."""
    root = Path(plan.configs[0].paths.root)
    for folder in [] if plan.anew else all_sweeps(root):
        try:
            known = folder.read()
        except RequestError:  # a damaged sweep does not stop this one
            continue
        if _are_the_same(known, plan.manifest):
            return folder
    if plan.anew:
        for run in {run_folder(config) for config in plan.configs}:
            if run.root.exists():
                move_aside(run)
    return new_sweep(root, plan.manifest, map(to_tree, plan.configs[: len(plan.manifest.jobs)]))


def _are_the_same(known: Manifest, asked: Manifest) -> bool:
    """Return whether a sweep has exactly the requested jobs, or searches the same space."""
    hashes = [[job.config_hash for job in one.jobs] for one in (known, asked)]
    same = (known.name, known.identity) == (asked.name, asked.identity)
    return same and (asked.settings["search"] or hashes[0] == hashes[1])


def run_sweep(
    folder: SweepFolder,
    *,
    manifest: Manifest,
    only: Sequence[str] = tuple(ONLY),
    watcher: Watcher,
    stopping: Callable[[], bool],
    on_message: Callable[[str], None],
) -> Manifest:
    """Run the jobs that have not finished.

    The sweep keeps its parent run in MLflow, however often it is resumed.

    Args:
        manifest: what is requested now; the progress of the jobs is read from the folder.
        only: keys of `ONLY`, which select jobs by status.

    Returns:
        The manifest afterwards.
    """
    wanted = {status for name in only for status in ONLY[name]}
    with Lease(folder.lease, stopping=stopping, on_wait=on_message):
        remove_leftovers(folder.root)
        manifest = replace(
            folder.read(),
            typed=manifest.typed,
            config_dirs=manifest.config_dirs,
            settings=dict(manifest.settings),
            tracking=manifest.tracking,
        )
        manifest.status = RUNNING
        if trouble := tell_start(folder, manifest):
            on_message(f"MLflow does not answer ({trouble}); the sweep starts without it")
        going_on = refresh_job_statuses(folder, manifest, close=close_run).open
        jobs = [job for job in manifest.jobs if job.status in wanted or job.number in going_on]
        for job in jobs:
            job.status = job.status if job.number in going_on else PENDING
        folder.write(manifest)
        launcher = _launcher(folder, manifest, watcher, stopping, on_message)
        try:
            launcher.run(_jobs_to_run(folder, manifest, jobs, watcher, on_message))
            while not (stopping() or _stops_on_failure(manifest)):
                if not (jobs := next_jobs(folder, manifest)):
                    break
                launcher.run(_jobs_to_run(folder, manifest, jobs, watcher, on_message))
        finally:
            manifest.status = _outcome(manifest, stopped=stopping())
            folder.write(manifest)
            if trouble := tell_end(folder, manifest):
                on_message(f"MLflow could not be updated at the end of the sweep ({trouble})")
        _report(folder, on_message)
    return manifest


def _jobs_to_run(
    folder: SweepFolder,
    manifest: Manifest,
    jobs: Sequence[Job],
    watcher: Watcher,
    on_message: Callable[[str], None],
) -> list[Job]:
    """Return the jobs that need a process; finish those that an earlier sweep has finished."""
    found = finished_before(folder, jobs)
    for job in jobs:
        if job.number in found:
            settle(folder, job, found[job.number], on_message=on_message)
            record_end(folder, job, 0, close=close_run)
            watcher.on_job_end(manifest, job)
    if found:
        folder.write(manifest)
    return [job for job in jobs if job.number not in found]


def _stops_on_failure(manifest: Manifest) -> bool:
    """Return whether a job has failed, after which `sweep.on_failure` allows no further one."""
    careful = manifest.settings["on_failure"] == "stop"
    return careful and any(job.status == FAILED for job in manifest.jobs)


def _launcher(
    folder: SweepFolder,
    manifest: Manifest,
    watcher: Watcher,
    stopping: Callable[[], bool],
    on_message: Callable[[str], None],
) -> Launcher | HydraLauncher:
    """Return what runs the jobs: the lab's own launcher, or one of Hydra's."""
    settings = manifest.settings
    if settings["launcher"]:
        return HydraLauncher(
            folder=folder,
            manifest=manifest,
            overrides=settings["launcher"],
            watcher=watcher,
            close=close_run,
            stopping=stopping,
            on_message=on_message,
        )
    return Launcher(
        folder=folder,
        manifest=manifest,
        slots=make_slots(settings["slots"], jobs_per_slot=settings["jobs_per_slot"]),
        watcher=watcher,
        close=close_run,
        stopping=stopping,
    )


def close_stale(folder: SweepFolder) -> tuple[Manifest, str]:
    """Record the end of a sweep whose process is gone, here and in MLflow.

    MLflow also gets what could not be sent before. A sweep that still runs, or whose jobs do, is
    left alone.

    Returns:
        The manifest, and what was done, in words.
    """
    if holder := holder_of(folder.lease):
        return folder.read(), holder
    if not (may_write(folder.root) and may_write(folder.lease)):
        return folder.read(), NOT_OURS
    with Lease(folder.lease):
        manifest, remark = folder.read(), ""
        if manifest.status == RUNNING or _is_open(manifest):
            attempts = refresh_job_statuses(folder, manifest, close=close_run)
            on = f"go on with: {folder.command('resume')}"
            if _is_open(manifest):
                manifest.status = RUNNING
                folder.write(manifest)
                said = attempts.said(manifest.jobs) or "its last jobs are being saved"
                return manifest, f"its process is gone; {said}; {on}"
            manifest.status = _outcome(manifest, stopped=True)
            folder.write(manifest)
            remark = f"exited without cleanup; {on}" if manifest.status == KILLED else ""
        told = tell_late(folder, manifest)
    return manifest, "; ".join(filter(None, [remark, told]))


def _is_open(manifest: Manifest) -> bool:
    """Return whether a job runs or waits, as far as is known."""
    return any(job.attempt or job.status == RUNNING for job in manifest.jobs)


def read_current_state(folder: SweepFolder) -> Manifest:
    """Return the manifest with the current states of the jobs. Changes nothing on disk."""
    manifest = folder.read()
    if not holder_of(folder.lease):
        refresh_job_statuses(folder, manifest, close=lambda run: None)
    return manifest


def _report(folder: SweepFolder, on_message: Callable[[str], None]) -> None:
    """Write the report on the jobs that have finished, if there are any."""
    if not any(job.status == FINISHED for job in folder.read().jobs):
        return
    try:
        ablation, files, trouble = report_on_sweep(folder)
    except RequestError as refusal:  # such as losses that cannot be compared
        on_message(f"no report: {refusal}")
        return
    for line in [*answer(ablation), *new_steps(ablation)]:
        on_message(line)
    on_message(f"report: {files[0]}")
    if trouble:
        on_message(f"the report could not be sent to MLflow ({trouble})")


def resumed(folder: SweepFolder, *, launcher: Sequence[str]) -> Manifest:
    """Return the manifest of a sweep that is to be resumed.

    Somebody else may have made the sweep. Its jobs are data; the launcher and the composition of
    further jobs must come from the command.

    Args:
        launcher: the overrides of the command for Hydra's launchers.

    Raises:
        RequestError: if the launcher is another one, or a job is not what the sweep was made with.
    """
    manifest = folder.read()
    before = manifest.settings["launcher"]
    if before != list(launcher):
        ran = f"through {shell_line(*before)}" if before else "without a launcher of Hydra's"
        do = "add that to this command" if before else f"leave out {shell_line(*launcher)}"
        raise RequestError(f"{folder.root}: its jobs ran {ran}; {do}, or start a new sweep")
    if manifest.unmade:
        if manifest.config_dirs:
            dirs = [word for place in manifest.config_dirs for word in ("--config-dir", place)]
            again = shell_line("dit-lab", "train", "-m", *manifest.typed, *dirs)
            raise RequestError(
                f"{folder.root}: its further trials need --config-dir; run this instead: {again}"
            )
        recorded_overrides(manifest.typed, str(folder.root))
    for job in manifest.jobs:
        job_config(folder, job)
    return manifest


def _outcome(manifest: Manifest, *, stopped: bool) -> str:
    """Return FINISHED if every job has finished, or else KILLED or FAILED."""
    if all(job.status == FINISHED for job in manifest.jobs) and not manifest.unmade:
        return FINISHED
    return KILLED if stopped else FAILED
