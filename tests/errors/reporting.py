"""`report`: which runs, and what is asked of them."""

from __future__ import annotations

import shutil
from pathlib import Path

from dit_lab.core import trust
from tests.errors.case import Case, heavy
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

    trust.trust_own_store(folder / "outputs")
    prepare_store(f"sqlite:///{folder}/outputs/mlflow.db", experiment="a", artifact_root=folder)


# fmt: off
CASES = (
    Case("no runs to report on", "report",
         "dit-lab report: give one of SWEEP, runs=RUN,RUN,... or filter=TEXT"),
    Case("a sweep without a job", SWEEP, "there is nothing to report: the sweep has no runs",
         start="grid", prepare=without_jobs),
    Case("a sweep of which nothing has finished", SWEEP,
         r"no run of the sweep has finished \(2 PENDING\): there is nothing to report",
         start="grid"),
    Case("a metric that was not measured", f"{SWEEP} report.metric=eval/los",
         r"no finished run has the metric eval/los; did you mean eval/loss\?", start="swept"),
    Case("a metric that is best in the middle",
         f"{SWEEP} report.metric=eval/distance_ratio_pixels_n90",
         "report.metric=eval/distance_ratio_pixels_n90: is best at 1", start="swept"),
    Case("losses of different objectives", SWEEP,
         r"losses of different objectives \(ddpm, rectified_flow\) are different quanti",
         start="swept", prepare=other_objective),
    Case("a baseline of another form", f"{SWEEP} report.baseline=first",
         "report.baseline=first: expected settings, such as objective=ddpm,model=pico",
         start="swept"),
    Case("a baseline by what does not vary", f"{SWEEP} report.baseline=model=nano",
         "the baseline model=nano names no setting of the sweep: it varies optimizer.lr, ",
         start="swept"),
    Case("a baseline that was not run", f"{SWEEP} report.baseline=optimizer.lr=0.1",
         "no run has optimizer.lr=0.1, the baseline: optimizer.lr is 0.001, 0.002", start="swept"),
    Case("a baseline that is several", f"{SWEEP} report.baseline=optimizer.lr=0.001",
         "2 configurations have optimizer.lr=0.001, and a baseline is one: say also",
         start="swept"),
    Case("a baseline that no run is",
         "report runs=a,b,c report.baseline=optimizer.lr=0.002,training.global_batch_size=4",
         "no configuration has all of optimizer.lr=0.002, training.global_batch_size=4",
         start="swept", prepare=links),
    Case("a run twice", "report runs=RUN,copy", "seed 0 is there twice with the same settings, in",
         start="tiny", prepare=copied),
    heavy("a filter without a tracker", "report filter=x",
         "filter=x: FOLDER/outputs/mlflow.db is missing"),
    heavy("a filter that finds nothing", "report \"filter=params.seed = '7'\"",
         "filter=params.seed = '7': finds 0 runs, of which none lies on this machine",
         prepare=all_of(lambda folder: (folder / "outputs").mkdir(), empty_store),
         leaves=("outputs/mlflow.db",)),
)
