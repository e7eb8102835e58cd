"""What a tracker is told of a sweep: its parent run, and whatever could not be told in time."""

from __future__ import annotations

from dit_lab.actions.doctor import close_run
from dit_lab.core.errors import RequestError
from dit_lab.runs.folder import FINISHED, read_status, write_json
from dit_lab.runs.manifest import Job, Manifest, SweepFolder
from dit_lab.sweeps.job import read_task, track
from dit_lab.tracking.parent import close_parent, has_ended, log_report, open_parent


def tell_start(folder: SweepFolder, manifest: Manifest) -> str:
    """Make the parent run, or open it again; "" or why that cannot be done now."""
    tracking = manifest.tracking
    if tracking["backend"] != "mlflow":
        return ""
    manifest.parent_run_id, trouble = open_parent(
        tracking["uri"],
        experiment=tracking["experiment"],
        artifact_root=folder.paths_root / "mlartifacts",
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


def tell_end(folder: SweepFolder, manifest: Manifest) -> str:
    """Say how a sweep has ended, and what its jobs could not say while they ran; "" or why not.

    What is found out about the jobs' runs is written into the manifest.
    """
    if manifest.tracking["backend"] != "mlflow":
        return ""
    late_parent = manifest.parent_run_id is None
    untold, trouble = _untold(manifest), ""
    if untold or late_parent:  # a store that is away is asked once, not by every job
        trouble = tell_start(folder, manifest)
    sent = [] if trouble else [job for job in untold if _send(folder, job)]
    folder.write(manifest)
    if trouble or manifest.parent_run_id is None:
        return trouble
    counts = {f"dit_lab.jobs_{name.lower()}": str(n) for name, n in manifest.counts().items()}
    return close_parent(
        manifest.tracking["uri"],
        manifest.parent_run_id,
        status=manifest.status,
        tags={"dit_lab.jobs": str(len(manifest.jobs)), **counts},
        children=[job.run_id for job in (manifest.jobs if late_parent else sent) if job.run_id],
        files=[folder.manifest],
    )


def tell_late(folder: SweepFolder, manifest: Manifest) -> str:
    """What of a sweep that has ended the tracker does not know yet; in words what was done."""
    tracking, run_id = manifest.tracking, manifest.parent_run_id
    unsent = any(job.status == FINISHED for job in _untold(manifest))
    if tracking["backend"] != "mlflow" or (not unsent and has_ended(tracking["uri"], run_id)):
        return ""
    trouble = tell_end(folder, manifest)
    if not trouble and manifest.parent_run_id and folder.report.is_dir():
        files = sorted(folder.report.iterdir())
        trouble = log_report(tracking["uri"], manifest.parent_run_id, files=files)
    return f"MLflow was not told ({trouble})" if trouble else "MLflow was told"


def _untold(manifest: Manifest) -> list[Job]:
    """Jobs that have run, here or in an earlier sweep, and whose runs the tracker has never
    seen."""
    ran = (job for job in manifest.jobs if job.attempts or job.status == FINISHED)
    return [job for job in ran if not job.run_id]


def _send(folder: SweepFolder, job: Job) -> bool:
    """Send what a job's run has to say, and note its id; whether there is one now."""
    run = folder.run(job)
    try:
        if run.status.exists():
            close_run(run)
            job.run_id = read_status(run).get("tracking_run_id")
        measured = folder.read_result(job)
        if job.status == FINISHED and measured:
            job.run_id, _ = track(read_task(folder.job(job)), measured["evaluation"])
            write_json(folder.job_result(job), {**measured, "tracking_run_id": job.run_id})
    except RequestError:  # it is damaged, or somebody else is writing to it; the others are sent
        return False
    return job.run_id is not None
