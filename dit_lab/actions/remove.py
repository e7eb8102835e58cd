"""Removal of whole runs and sweeps, on disk and in the tracker. Torch-free."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress

from dit_lab.actions.references import References
from dit_lab.config.recorded import root_of
from dit_lab.config.yaml_files import read_config
from dit_lab.core import trust
from dit_lab.core.errors import RequestError
from dit_lab.core.files import may_write
from dit_lab.core.text import counted
from dit_lab.runs.folder import RunFolder, read_status
from dit_lab.runs.keeping import name_of, remove_whole, runs_below
from dit_lab.runs.lock import Lease, Watch, holder_of
from dit_lab.runs.manifest import SweepFolder
from dit_lab.tracking.addresses import shown
from dit_lab.tracking.parent import delete_runs

Places = Sequence[RunFolder | SweepFolder]


def with_jobs(chosen: Places) -> tuple[list[RunFolder], list[SweepFolder]]:
    """Return the chosen runs with the runs of the chosen sweeps' jobs, and the chosen sweeps.

    Runs of jobs count only if they are below the sweep's `paths.root`.
    """
    sweeps = [one for one in chosen if isinstance(one, SweepFolder)]
    runs = [one for one in chosen if isinstance(one, RunFolder)]
    for sweep in sweeps:
        root = sweep.paths_root.resolve()  # a link in another user's folder may lead anywhere
        of_jobs = [sweep.run(job) for job in sweep.read().jobs]
        runs += [
            run for run in of_jobs if run.root.is_dir() and run.root.resolve().is_relative_to(root)
        ]
    by_place = {run.root.resolve(): run for run in runs}
    return list(by_place.values()), list(dict.fromkeys(sweeps))


def refuse_held(runs: Sequence[RunFolder], sweeps: Sequence[SweepFolder]) -> None:
    """Raise RequestError if a process writes to one of them or this user may not remove it."""
    for run in runs:
        if run.is_exported:
            raise RequestError(f"{run.root}: is an exported file; delete it as other files")
    for place in _all(runs, sweeps):
        if holder := holder_of(place.lease):
            raise RequestError(f"{place.root}: {holder}; stop it, or leave it out")
        if not (may_write(place.root) and may_write(place.root.parent)):
            raise RequestError(f"{place.root}: this user cannot write to it; leave it out")
    for sweep in sweeps:
        jobs = sweep.read().jobs
        if working := [job for job in jobs if Watch(sweep.job_lease(job)).is_held()]:
            raise RequestError(
                f"{sweep.root}: job {working[0].number} is running; stop it, or leave it out"
            )


def who_needs(runs: Sequence[RunFolder], sweeps: Sequence[SweepFolder]) -> dict[str, list[str]]:
    """Return, by run, descriptions of the remaining runs and sweeps that need it."""
    references = References(map(root_of, runs))
    going = {place.root.resolve() for place in _all(runs, sweeps)}
    needed: dict[str, list[str]] = {}
    for run in runs:
        if by := [one.told for one in references.to(run) if one.by.resolve() not in going]:
            needed[name_of(run)] = list(dict.fromkeys(by))
    return needed


def remove(runs: Sequence[RunFolder], sweeps: Sequence[SweepFolder]) -> list[str]:
    """Remove the folders, then their runs in the tracker; return lines about the tracker.

    Raises:
        Busy: a process writes to one of them.
        OSError: a folder cannot be removed.
    """
    tracked = _tracked(runs, sweeps)
    stay = _ids_that_stay(runs)
    for place in _all(runs, sweeps):
        with Lease(place.lease):
            remove_whole(place.root)
        with suppress(OSError):  # the parent folder is not empty
            place.root.parent.rmdir()
    said = []
    for uri, ids in tracked.items():
        number, trouble = delete_runs(uri, ids, but=stay)
        if number:
            said.append(f"MLflow: {counted(number, 'run')} deleted; `mlflow gc` frees their files")
        if trouble:
            said.append(f"left in MLflow ({trouble}; {shown(uri)}): {', '.join(ids)}")
    return said


def _all(runs: Sequence[RunFolder], sweeps: Sequence[SweepFolder]) -> Places:
    return [*runs, *sweeps]


def _tracked(runs: Sequence[RunFolder], sweeps: Sequence[SweepFolder]) -> dict[str, list[str]]:
    """Return the ids of the tracked runs to delete, by store."""
    found: dict[str, list[str]] = defaultdict(list)
    for run in runs:
        with suppress(RequestError):  # the id in a damaged file is unknown
            config, run_id = read_config(run), read_status(run).get("tracking_run_id")
            if config["tracking"]["backend"] == "mlflow" and run_id:
                found[_store(config["tracking"]["uri"], config["paths"]["root"], run)].append(
                    run_id
                )
    for sweep in sweeps:
        manifest = sweep.read()
        if manifest.parent_run_id:
            found[manifest.tracking["uri"]].append(manifest.parent_run_id)
    return found


def _store(uri: str, recorded_root: str, run: RunFolder) -> str:
    """Return the store of a run; the default store moves with `paths.root`."""
    return trust.default_store(root_of(run)) if uri == trust.default_store(recorded_root) else uri


def _ids_that_stay(runs: Sequence[RunFolder]) -> set[str]:
    """Return the tracker ids of the remaining runs, which may be children of a removed sweep."""
    going = {run.root.resolve() for run in runs}
    ids = set()
    for root in dict.fromkeys(map(root_of, runs)):
        for other in runs_below(root):
            if other.root.resolve() not in going:
                with suppress(RequestError):
                    ids.add(read_status(other).get("tracking_run_id") or "")
    return ids - {""}
