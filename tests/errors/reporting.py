"""`report`: which runs, and what is asked of them."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.errors.case import Area, Case
from tests.errors.starts import all_of, only_run, only_sweep, write

SWEEP = "report SWEEP"


def copied(folder: Path) -> None:
    """The run lies there twice."""
    shutil.copytree(only_run(folder), folder / "copy")


def other_objective(folder: Path) -> None:
    """One of the jobs was another objective's."""
    config = max(only_sweep(folder).glob("jobs/*/config.json"))
    text = config.read_text()
    assert '"objective": "rectified_flow"' in text
    config.write_text(text.replace('"objective": "rectified_flow"', '"objective": "ddpm"'))


def without_jobs(folder: Path) -> None:
    """A sweep whose manifest has lost its jobs."""
    import json

    path = only_sweep(folder) / "manifest.json"
    write(path, json.dumps({**json.loads(path.read_text()), "jobs": []}))


def links(folder: Path) -> None:
    """`a`, `b` and `c`, three of the four runs; the last has lr 0.002 and a batch of 4."""
    jobs = sorted(only_sweep(folder).glob("jobs/*/run"))
    for name, job in zip("abc", jobs, strict=False):
        (folder / name).symlink_to(job.resolve())


def empty_store(folder: Path) -> None:
    """A tracker's database without a run."""
    from dit_lab.tracking.mlflow_store import prepare_store

    prepare_store(f"sqlite:///{folder}/outputs/mlflow.db", experiment="a", artifact_root=folder)


AREA = Area(
    title="Reports",
    cases=(
        Case(
            title="no runs to report on",
            command="report",
            says="dit-lab report: give one of SWEEP, runs=RUN,RUN,... or filter=TEXT",
        ),
        Case(
            title="a sweep without a job",
            command=SWEEP,
            start="grid",
            prepare=without_jobs,
            says="there is nothing to report: the sweep has no runs",
        ),
        Case(
            title="a sweep of which nothing has finished",
            command=SWEEP,
            start="grid",
            says=r"no run of the sweep has finished \(2 PENDING\): there is nothing to report",
        ),
        Case(
            title="a metric that was not measured",
            command=f"{SWEEP} report.metric=eval/los",
            start="swept",
            says=r"no finished run has the metric eval/los; did you mean eval/loss\?",
        ),
        Case(
            title="a metric that is best in the middle",
            command=f"{SWEEP} report.metric=eval/distance_ratio_pixels_n90",
            start="swept",
            says="report.metric=eval/distance_ratio_pixels_n90: is best at 1",
        ),
        Case(
            title="losses of different objectives",
            command=SWEEP,
            start="swept",
            prepare=other_objective,
            says=r"losses of different objectives \(ddpm, rectified_flow\) are different quanti",
        ),
        Case(
            title="a baseline of another form",
            command=f"{SWEEP} report.baseline=first",
            start="swept",
            says="report.baseline=first: expected settings, such as objective=ddpm,model=pico",
        ),
        Case(
            title="a baseline by what does not vary",
            command=f"{SWEEP} report.baseline=model=nano",
            start="swept",
            says="the baseline model=nano names no setting of the sweep: it varies optimizer.lr, ",
        ),
        Case(
            title="a baseline that was not run",
            command=f"{SWEEP} report.baseline=optimizer.lr=0.1",
            start="swept",
            says="no run has optimizer.lr=0.1, the baseline: optimizer.lr is 0.001, 0.002",
        ),
        Case(
            title="a baseline that is several",
            command=f"{SWEEP} report.baseline=optimizer.lr=0.001",
            start="swept",
            says="2 configurations have optimizer.lr=0.001, and a baseline is one: say also",
        ),
        Case(
            title="a baseline that no run is",
            command="report runs=a,b,c "
            "report.baseline=optimizer.lr=0.002,training.global_batch_size=4",
            start="swept",
            prepare=links,
            says="no configuration has all of optimizer.lr=0.002, training.global_batch_size=4",
        ),
        Case(
            title="a run twice",
            command="report runs=RUN,copy",
            start="tiny",
            prepare=copied,
            says="seed 0 is there twice with the same settings, in",
        ),
        Case(
            title="a filter without a tracker",
            command="report filter=x",
            says="filter=x: FOLDER/outputs/mlflow.db is missing",
            slow=True,
        ),
        Case(
            title="a filter that finds nothing",
            command="report \"filter=params.seed = '7'\"",
            prepare=all_of(lambda folder: (folder / "outputs").mkdir(), empty_store),
            says="filter=params.seed = '7': finds 0 runs, of which none lies on this machine",
            slow=True,
            leaves=("outputs/mlflow.db",),
        ),
    ),
)
