"""Runs a planned sweep, or goes on with one that was interrupted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dit_lab.lab.config import read_yaml, to_yaml
from dit_lab.lab.doctor import close_run
from dit_lab.lab.identity import set_aside
from dit_lab.lab.sweep_plan import Plan, plan_sweep
from dit_lab.lease import Lease
from dit_lab.runs import FAILED, FINISHED, KILLED, RUNNING, flatten
from dit_lab.sweeps.launcher import Launcher, Watcher
from dit_lab.sweeps.manifest import PENDING, Manifest, SweepFolder, all_sweeps, new_sweep
from dit_lab.sweeps.slots import make_slots
from dit_lab.tracking.parent import close_parent, open_parent
from dit_lab.types import RequestError

ONLY = {"failed": (FAILED,), "missing": (PENDING, RUNNING, KILLED)}
"""What `--only` may name, and the statuses that it stands for."""


def take_up(plan: Plan) -> SweepFolder:
    """The folder of the newest sweep of these very jobs, or else a new one."""
    root = Path(plan.configs[0]["paths"]["root"])
    hashes = [job.config_hash for job in plan.manifest.jobs]
    for folder in [] if plan.anew else all_sweeps(root):
        known = folder.read()
        if known.name == plan.manifest.name and [j.config_hash for j in known.jobs] == hashes:
            return folder
    if plan.anew:
        for run in {job.folder for job in plan.manifest.jobs}:
            if run.root.exists():
                set_aside(run)
    return new_sweep(root, plan.manifest, map(to_yaml, plan.configs))


def run_sweep(
    folder: SweepFolder,
    *,
    settings: Mapping[str, Any] | None = None,
    only: Sequence[str] = tuple(ONLY),
    watcher: Watcher,
    stopping: Callable[[], bool],
    on_message: Callable[[str], None],
) -> Manifest:
    """Run the jobs that have not finished; the manifest as it is afterwards.

    `settings` take the place of those that the sweep was started with. The parent run in the
    tracker is one, however often a sweep is taken up again.
    """
    wanted = {status for name in only for status in ONLY[name]}
    with Lease(folder.lease, stopping=stopping, on_wait=on_message):
        manifest = folder.read()
        manifest.settings = dict(settings or manifest.settings)
        jobs = [job for job in manifest.jobs if job.status in wanted]
        for job in jobs:
            job.status = PENDING
        manifest.status = RUNNING
        if trouble := _open(folder, manifest):
            on_message(f"MLflow does not answer ({trouble}); the sweep starts without it")
        folder.write(manifest)
        launcher = Launcher(
            folder=folder,
            manifest=manifest,
            slots=make_slots(
                manifest.settings["slots"], jobs_per_slot=manifest.settings["jobs_per_slot"]
            ),
            watcher=watcher,
            close=close_run,
            stopping=stopping,
        )
        try:
            launcher.run(jobs)
        finally:
            manifest.status = _outcome(manifest, stopped=stopping())
            if trouble := _close(folder, manifest):
                on_message(f"MLflow was not told how the sweep ended ({trouble})")
            folder.write(manifest)
    return manifest


def check_unchanged(folder: SweepFolder) -> None:
    """Refuse to go on with a sweep whose configuration would be composed otherwise today."""
    manifest = folder.read()
    plan = plan_sweep(manifest.typed, config_dirs=[Path(path) for path in manifest.config_dirs])
    for job, now, config in zip(manifest.jobs, plan.manifest.jobs, plan.configs, strict=False):
        if job.config_hash != now.config_hash:
            before = dict(flatten(read_yaml(folder.job_config(job))))
            after = dict(flatten(config))
            changed = sorted(key for key in before | after if before.get(key) != after.get(key))
            what = changed[0] if changed else "order"
            raise RequestError(
                f"{folder.root}: the configuration has changed since: job {job.number} had "
                f"{what}={before.get(what)}, now {after.get(what)}; put it back, or start a sweep "
                "of its own"
            )
    if len(manifest.jobs) != len(plan.manifest.jobs):
        raise RequestError(
            f"{folder.root}: had {len(manifest.jobs)} jobs, now {len(plan.manifest.jobs)}; start a "
            "sweep of its own"
        )


def _outcome(manifest: Manifest, *, stopped: bool) -> str:
    """FINISHED only if every job has finished."""
    if all(job.status == FINISHED for job in manifest.jobs):
        return FINISHED
    return KILLED if stopped else FAILED


def _open(folder: SweepFolder, manifest: Manifest) -> str:
    """Make the parent run, or open it again; "" or why that cannot be done now."""
    tracking = manifest.tracking
    if tracking["backend"] != "mlflow":
        return ""
    manifest.parent_run_id, trouble = open_parent(
        tracking["uri"],
        experiment=tracking["experiment"],
        artifact_root=folder.root.parents[1] / "mlartifacts",
        name=folder.root.name,
        params={f"axis.{key}": ", ".join(values) for key, values in manifest.axes.items()},
        tags={
            "dit_lab.sweep": folder.root.name,
            "dit_lab.sweep_folder": str(folder.root),
            "dit_lab.overrides": " ".join(manifest.typed),
        },
        run_id=manifest.parent_run_id,
    )
    return trouble


def _close(folder: SweepFolder, manifest: Manifest) -> str:
    """Close the parent run; "" or why that cannot be done now."""
    orphans: list[str] = []
    if manifest.parent_run_id is None:  # nobody answered when the jobs were started
        if trouble := _open(folder, manifest):
            return trouble
        orphans = [job.run_id for job in manifest.jobs if job.run_id]
    if manifest.parent_run_id is None:
        return ""
    counts = {f"dit_lab.jobs_{name.lower()}": str(n) for name, n in manifest.counts().items()}
    return close_parent(
        manifest.tracking["uri"],
        manifest.parent_run_id,
        status=manifest.status,
        tags={"dit_lab.jobs": str(len(manifest.jobs)), **counts},
        children=orphans,
        files=[folder.manifest],
    )
