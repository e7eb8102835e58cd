"""Errors of `dit-lab report`: selection of runs and options."""

from __future__ import annotations

import shutil
from pathlib import Path

from dit_lab.core import trust
from tests.errors.case import Case, heavy
from tests.errors.starts import all_of, only_run, only_sweep, write

SWEEP = "report SWEEP"


def copied(folder: Path) -> None:
    """Prepare a second copy of the run."""
    shutil.copytree(only_run(folder), folder / "copy")


def other_objective(folder: Path) -> None:
    """Change one of the jobs to another objective."""
    config = max(only_sweep(folder).glob("jobs/*/config.json"))
    text = config.read_text()
    assert '"objective": "rectified_flow"' in text
    config.write_text(text.replace('"objective": "rectified_flow"', '"objective": "ddpm"'))


def without_jobs(folder: Path) -> None:
    """Remove the jobs from a sweep's manifest."""
    import json

    path = only_sweep(folder) / "manifest.json"
    write(path, json.dumps({**json.loads(path.read_text()), "jobs": []}))


def links(folder: Path) -> None:
    """Prepare links `a`, `b` and `c` to three of the four runs; `c` has lr 0.002 and batch 4."""
    jobs = sorted(only_sweep(folder).glob("jobs/*/run"))
    for name, job in zip("abc", jobs, strict=False):
        (folder / name).symlink_to(job.resolve())


def two_meanings(folder: Path) -> None:
    """Prepare `first` and `second`, copies of the sweep with different arms `b`."""
    import json

    sweep = only_sweep(folder)
    for name, rate in (("first", "0.002"), ("second", "0.1")):
        copy = sweep.with_name(name)
        shutil.copytree(sweep, copy, symlinks=True)
        manifest = json.loads((copy / "manifest.json").read_text())
        arms = {"a": {"from": None, "overrides": []},
                "b": {"from": "a", "overrides": [f"optimizer.lr={rate}"]}}  # fmt: skip
        write(copy / "manifest.json", json.dumps({**manifest, "arms": arms}))


def empty_store(folder: Path) -> None:
    """Prepare a tracker's database without runs."""
    from dit_lab.tracking.mlflow_store import prepare_store

    trust.trust_own_store(folder / "outputs")
    prepare_store(f"sqlite:///{folder}/outputs/mlflow.db", experiment="a", artifact_root=folder)


# fmt: off
CASES = (
    Case("no runs to report on", "report",
         "dit-lab report: give a SWEEP, a RUN, runs=RUN,RUN,... or filter=TEXT, or several of"),
    Case("neither a sweep nor a run", "report seeds",
         "seeds: no sweep and no run; give a folder below FOLDER/outputs/sweeps or FOLDER/out"),
    Case("several runs of one name", "report outputs/runs/tiny",
         r"outputs/runs/tiny: holds 4 runs \(.*\); name one of them", start="swept"),
    Case("an option that there is not", f"{SWEEP} report.metrics=eval/loss",
         "report.metrics=eval/loss: no such option; allowed: runs, filter, out, report.metric, rep",
         start="swept"),
    Case("arms of one name that are not the same", "report first second",
         "arm=b: is optimizer.lr=0.002 on a in first and optimizer.lr=0.1 on a in second; report",
         start="swept", prepare=two_meanings),
    Case("a part by what no run has", f"{SWEEP} report.only=lr=0.1",
         "report.only=lr=0.1: no setting of these runs; they have seed, optimizer.lr, training.",
         start="swept"),
    Case("a part by a value that no run has", f"{SWEEP} report.only=optimizer.lr=0.1,0.002",
         "report.only=optimizer.lr=0.1,0.002: no run has 0.1; optimizer.lr is 0.001, 0.002",
         start="swept"),
    Case("a part that no run is in",
         "report runs=a,b,c report.only=optimizer.lr=0.002,training.global_batch_size=4",
         "report.only=optimizer.lr=0.002,training.global_batch_size=4: no run has all of these",
         start="swept", prepare=links),
    Case("a part of another form", f"{SWEEP} report.only=first",
         "report.only=first: expected settings, such as objective=ddpm,model=pico", start="swept"),
    Case("a table of another format", f"{SWEEP} --frame results.xlsx",
         "--frame results.xlsx: give a name that ends in .parquet or .csv", start="swept"),
    Case("a table in a folder that there is not", f"{SWEEP} --frame there/results.csv",
         "--frame there/results.csv: the folder FOLDER/there does not exist; create it first",
         start="swept"),
    Case("a sweep without a job", SWEEP, "there is nothing to report: the sweep has no runs",
         start="grid", prepare=without_jobs),
    Case("a sweep of which nothing has finished", SWEEP,
         r"no run of the sweep has finished \(2 PENDING\): there is nothing to report",
         start="grid"),
    Case("a metric that was not measured", f"{SWEEP} report.metric=eval/los",
         r"report.metric=eval/los: no finished run has this metric; did you mean eval/loss\?",
         start="swept"),
    Case("a metric that is best in the middle",
         f"{SWEEP} report.metric=eval/distance_ratio_pixels_n90",
         "report.metric=eval/distance_ratio_pixels_n90: is best at 1", start="swept"),
    Case("losses of different objectives", SWEEP,
         r"losses of different objectives \(ddpm, rectified_flow\) are different quanti",
         start="swept", prepare=other_objective),
    Case("a baseline of another form", f"{SWEEP} report.baseline=first",
         "report.baseline=first: expected settings, such as objective=ddpm,model=pico",
         start="swept"),
    Case("a baseline of two values", f"{SWEEP} report.baseline=optimizer.lr=0.001,0.002",
         "report.baseline=optimizer.lr=0.001,0.002: optimizer.lr has several values; a baseline ha",
         start="swept"),
    Case("a baseline by what does not vary", f"{SWEEP} report.baseline=model=nano",
         "report.baseline=model=nano: not a setting of the sweep; it varies optimizer.lr, ",
         start="swept"),
    Case("a baseline that was not run", f"{SWEEP} report.baseline=optimizer.lr=0.1",
         "report.baseline=optimizer.lr=0.1: no run has this value; optimizer.lr is 0.001, 0.002",
         start="swept"),
    Case("a baseline that is several", f"{SWEEP} report.baseline=optimizer.lr=0.001",
         "report.baseline=optimizer.lr=0.001: 2 configurations have these settings; add",
         start="swept"),
    Case("a baseline that no run is",
         "report runs=a,b,c report.baseline=optimizer.lr=0.002,training.global_batch_size=4",
         "report.baseline=optimizer.lr=0.002,training.global_batch_size=4: no configuration has",
         start="swept", prepare=links),
    Case("a run twice", "report runs=RUN,copy",
         "seed=0: two runs have this seed and the same settings, ", start="tiny", prepare=copied),
    heavy("a filter without a tracker", "report filter=x",
         "filter=x: FOLDER/outputs/mlflow.db is missing"),
    heavy("a filter that finds nothing", "report \"filter=params.seed = '7'\"",
         "filter=params.seed = '7': finds 0 runs, none of them on this machine",
         prepare=all_of(lambda folder: (folder / "outputs").mkdir(), empty_store),
         leaves=("outputs/mlflow.db",)),
)
