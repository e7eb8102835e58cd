"""The MLflow run of a sweep, and what could not be sent to MLflow in time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress

from dit_lab.actions.doctor import close_run
from dit_lab.core.errors import RequestError
from dit_lab.runs.folder import FAILED, FINISHED, KILLED, RUNNING, read_status, write_json
from dit_lab.runs.manifest import PENDING, Job, Manifest, SweepFolder
from dit_lab.runs.provenance import origin
from dit_lab.sweeps.children import command_of, tags_of, track
from dit_lab.tracking.mlflow_store import members
from dit_lab.tracking.notes import COMMAND
from dit_lab.tracking.parent import (
    children_of,
    close_parent,
    has_ended,
    log_report,
    open_parent,
)

AXES_CHARACTERS = 120  # of a parent's name


def tell_start(folder: SweepFolder, manifest: Manifest) -> str:
    """Create the parent run, or reopen it; return why that is not possible now, or ""."""
    tracking = manifest.tracking
    if tracking["backend"] != "mlflow":
        return ""
    configs = [folder.read_config(job) for job in manifest.jobs]
    first = configs[0] if configs else {}
    manifest.parent_run_id, trouble = open_parent(
        tracking["uri"],
        experiment=tracking["experiment"],
        artifact_root=folder.paths_root / "mlartifacts",
        name=_parent_name(folder, manifest),
        params={
            **{f"axis.{key}": ", ".join(values) for key, values in manifest.axes.items()},
            **_the_same([members(config["choices"]) for config in configs]),
        },
        tags={
            **first.get("tags", {}),
            "dit_lab.sweep": folder.root.name,
            "dit_lab.sweep_folder": str(folder.root),
            "dit_lab.overrides": " ".join(manifest.typed),
            COMMAND: command_of(manifest),
            **origin(),
        },
        note=first.get("note") or "",
        run_id=manifest.parent_run_id,
    )
    return trouble


def _parent_name(folder: SweepFolder, manifest: Manifest) -> str:
    """Return the name of the parent run: the axes, and the name of the sweep's folder."""
    axes = " ".join(f"{key}={','.join(values)}" for key, values in manifest.axes.items())
    if len(axes) > AXES_CHARACTERS:
        axes = f"{axes[: AXES_CHARACTERS - 3]}..."
    return f"{axes} ({folder.root.name})"


def _the_same(choices: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Return the chosen members that all jobs have in common."""
    if not choices:
        return {}
    first, *others = choices
    return {
        group: member
        for group, member in first.items()
        if all(other.get(group) == member for other in others)
    }


def tell_end(folder: SweepFolder, manifest: Manifest) -> str:
    """Send the end of a sweep and what its jobs could not send; return why that failed, or "".

    The ids of the jobs' runs are written into the manifest.
    """
    if manifest.tracking["backend"] != "mlflow":
        return ""
    if manifest.parent_run_id is None:
        trouble = tell_start(folder, manifest)
        if trouble or manifest.parent_run_id is None:
            return trouble
    uri, parent = manifest.tracking["uri"], manifest.parent_run_id
    pending_metrics, trouble = _untold(folder, manifest)
    if trouble:  # an unreachable store is tried once, not once per job
        return trouble
    troubles = [_send(folder, manifest, job) for job in pending_metrics]
    folder.write(manifest)
    counts, files = manifest.counts(), [folder.manifest]
    troubles.append(close_parent(uri, parent, status=manifest.status, counts=counts, files=files))
    return next(filter(None, troubles), "")


def tell_late(folder: SweepFolder, manifest: Manifest) -> str:
    """Send what MLflow lacks of a sweep that has ended; return what was done, in words."""
    tracking, run_id = manifest.tracking, manifest.parent_run_id
    if tracking["backend"] != "mlflow":
        return ""
    if run_id is not None and has_ended(tracking["uri"], run_id):
        pending_metrics, trouble = _untold(folder, manifest)
        if not trouble and not any(job.status == FINISHED for job in pending_metrics):
            return ""
    trouble = tell_end(folder, manifest)
    if not trouble and manifest.parent_run_id and folder.report.is_dir():
        files = sorted(folder.report.iterdir())
        trouble = log_report(tracking["uri"], manifest.parent_run_id, files=files)
    return f"MLflow could not be updated ({trouble})" if trouble else "MLflow was updated"


def _untold(folder: SweepFolder, manifest: Manifest) -> tuple[list[Job], str]:
    """Return the jobs of which MLflow lacks something, and why MLflow does not answer, or "".

    These are jobs that have run, here or in an earlier sweep, without a complete child run in
    MLflow.
    """
    begun = (job for job in manifest.jobs if job.attempts or job.status == FINISHED)
    ran = [job for job in begun if folder.run(job).status.exists()]
    if manifest.parent_run_id is None:
        return ran, ""
    known, trouble = children_of(manifest.tracking["uri"], manifest.parent_run_id)
    lacks = (job for job in ran if job.run_id not in known or not _is_whole(folder, job))
    return list(lacks), trouble


def _is_whole(folder: SweepFolder, job: Job) -> bool:
    """Return whether MLflow has everything of a job's training, or may still get it."""
    with suppress(RequestError):  # damaged files are reported with the run
        whole = read_status(folder.run(job)).get("is_tracked_whole", True)
        return bool(whole) or job.status in (PENDING, RUNNING)
    return True


def _send(folder: SweepFolder, manifest: Manifest, job: Job) -> str:
    """Send the results of a job, and note the id of its run; return why that failed, or ""."""
    run = folder.run(job)
    try:
        close_run(run)
        measured = folder.read_result(job)
        tracking, paths = manifest.tracking, {"root": str(folder.paths_root)}
        job.run_id, trouble = track(
            run,
            job,
            config={**folder.read_config(job), "tracking": tracking, "paths": paths},
            tags=tags_of(folder, manifest, job),
            evaluation=measured.get("evaluation"),
            status=job.status if job.status in (FINISHED, FAILED) else KILLED,
        )
        if measured:
            write_json(folder.job_result(job), {**measured, "tracking_run_id": job.run_id})
    except RequestError as refusal:  # it is damaged, or somebody else is writing to it
        trouble = str(refusal)
    return f"job {job.number}: {trouble}" if trouble else ""
