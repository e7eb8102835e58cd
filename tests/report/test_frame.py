"""The runs of a report as a table for pandas."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pytest

import dit_lab
from dit_lab.cli.main import main
from dit_lab.core.errors import RequestError
from dit_lab.report.question import report_on_sweep
from dit_lab.report.selection import runs_of_sweep
from dit_lab.runs.folder import RunFolder
from dit_lab.runs.manifest import SweepFolder
from tests.synthetic import HELD_OUT, STEPS, finished_sweep

AXES = {"objective": ["rectified_flow", "flow_matching"], "optimizer.lr": ["1e-3", "0.002"],
        "seed": ["0", "1", "2"]}  # fmt: skip


def value(job: Mapping[str, str]) -> float:
    """No two alike, and no sums that are exact."""
    return 0.1 / 3 + len(job["objective"]) / 7 + float(job["optimizer.lr"]) + int(job["seed"]) / 9


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> SweepFolder:
    return finished_sweep(tmp_path_factory.mktemp("frame") / "outputs", AXES, value)


@pytest.fixture(scope="module")
def table(sweep: SweepFolder) -> pd.DataFrame:
    return dit_lab.results(sweep.root)


def test_a_row_for_each_run(table: pd.DataFrame, sweep: SweepFolder) -> None:
    assert len(table) == 12
    first, folder = table.iloc[0], sweep.run(sweep.read().jobs[0])
    assert first["run"] == "job 0" and first["folder"] == str(folder.root)
    assert (first["objective"], first["optimizer.lr"], first["seed"]) == ("rectified_flow", 1e-3, 0)
    assert (first["status"], first["step"], first["images"]) == ("FINISHED", STEPS, STEPS * 128)
    assert first[HELD_OUT] == value({"objective": "rectified_flow", "optimizer.lr": "1e-3",
                                     "seed": "0"})  # fmt: skip
    assert first[f"{HELD_OUT} sd"] == 0.02
    assert first["evaluations_per_image"] == 50
    assert first["seconds"] == STEPS * 128 / 256
    assert first["training_flops"] > 1e9 and 250_000 < first["parameters"] < 350_000
    assert table["code_hash"].nunique() == table["data_hash"].nunique() == 1
    assert table["mlflow_run_id"].isna().all()


def test_numbers_are_numbers(table: pd.DataFrame) -> None:
    numbers = {"optimizer.lr", "seed", "step", HELD_OUT, f"{HELD_OUT} sd", "eval/loss",
               "parameters", "training_flops", "seconds", "images",
               "evaluations_per_image"}  # fmt: skip
    assert {column for column in table if pd.api.types.is_numeric_dtype(table[column])} >= numbers
    assert pd.api.types.is_integer_dtype(table["seed"])


def test_means_are_those_of_the_report(table: pd.DataFrame, sweep: SweepFolder) -> None:
    ablation, _, _ = report_on_sweep(sweep)
    means = table.groupby(["objective", "optimizer.lr"])[HELD_OUT].agg(["mean", "std", "count"])
    assert len(means) == len(ablation.configurations) == 4
    for configuration in ablation.configurations:
        settings = configuration.settings
        found = means.loc[settings["objective"], float(settings["optimizer.lr"])]
        assert found["mean"] == configuration.sample.mean
        assert found["std"] == pytest.approx(configuration.sample.sd, rel=1e-12)
        assert found["count"] == configuration.sample.n


def test_what_is_missing_is_not_a_number(tmp_path: Path) -> None:
    """A job that failed has no metric, and a setting that it does not have is empty."""
    sweep = finished_sweep(tmp_path / "outputs", AXES, value)
    manifest = sweep.read()
    manifest.jobs[0].status = "FAILED"
    for job in manifest.jobs:
        if "objective=flow_matching" in job.overrides:
            job.overrides.pop(1)
    sweep.write(manifest)
    table = dit_lab.results(sweep.root.name, root=tmp_path / "outputs")
    assert math.isnan(table.loc[0, HELD_OUT]) and math.isnan(table.loc[0, f"{HELD_OUT} sd"])
    assert math.isnan(table.loc[0, "parameters"]) and table.loc[0, "status"] == "FAILED"
    assert table["optimizer.lr"].isna().tolist() == [False] * 6 + [True] * 6
    assert table.loc[:5, "optimizer.lr"].tolist() == [1e-3] * 3 + [2e-3] * 3


def test_settings_are_typed_where_all_values_are(tmp_path: Path) -> None:
    axes = {"training.compile": ["false", "true"], "objective.time_sampling": ["uniform", "cosmap"],
            "seed": ["0"], "sample.seed": ["0", "1"]}  # fmt: skip
    sweep = finished_sweep(tmp_path / "outputs", axes, lambda job: 0.5)
    table = dit_lab.results(sweep.root)
    assert table["training.compile"].dtype == bool and table["training.compile"].sum() == 4
    assert table["objective.time_sampling"].tolist()[:3] == ["uniform", "uniform", "cosmap"]
    assert table["sample.seed"].tolist() == [0, 1] * 4  # each evaluation has a row


def test_a_part_and_single_runs(sweep: SweepFolder) -> None:
    root = sweep.paths_root
    some = dit_lab.results(sweep.root.name, root=root, only={"objective": "flow_matching",
                                                             "seed": [0, 2]})  # fmt: skip
    assert some["seed"].tolist() == [0, 2, 0, 2]
    assert set(some["objective"]) == {"flow_matching"}
    run = sweep.run(sweep.read().jobs[3])
    assert len(dit_lab.results(sweep.root, run.root)) == 12
    (alone,) = dit_lab.results(run.root).to_dict("records")
    assert alone["folder"] == str(run.root) and alone["seed"] == 0
    with pytest.raises(RequestError, match="give at least one sweep or run"):
        dit_lab.results()


def test_the_command_writes_it(
    sweep: SweepFolder, table: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    reads = {"results.parquet": pd.read_parquet, "results.csv": pd.read_csv}
    files = [text for name in reads for text in ("--frame", str(tmp_path / name))]
    assert main(["report", str(sweep.root), *files]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {*reads}
    kept = [column for column in table if table[column].notna().any()]
    printed = capsys.readouterr().out
    for name, read in reads.items():
        assert f"written: {tmp_path / name}, 12 rows" in printed
        found = read(tmp_path / name)
        pd.testing.assert_frame_equal(found[kept], table[kept], check_exact=True)
        assert list(found) == list(table)


def test_a_table_is_written_where_a_report_is_refused(sweep: SweepFolder, tmp_path: Path) -> None:
    """Losses of different objectives are no report, and columns like others."""
    file = tmp_path / "results.csv"
    command = ["report", str(sweep.root), "report.metric=eval/loss", "--frame", str(file)]
    assert main(command) == 2
    assert "eval/loss" in pd.read_csv(file)


def test_the_package_is_imported_without_pandas() -> None:
    code = "import sys, dit_lab; print({'torch', 'pandas', 'numpy'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_runs_of_a_sweep_know_where_they_are_tracked(sweep: SweepFolder) -> None:
    manifest = sweep.read()
    manifest.jobs[5].run_id = "c" * 32
    sweep.write(manifest)
    table = dit_lab.results(sweep.root)
    assert table["mlflow_run_id"].dropna().tolist() == ["c" * 32]
    assert isinstance(runs_of_sweep(sweep)[5].folder, RunFolder)
