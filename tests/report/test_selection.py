"""Sweeps and single runs in one report: each counted once, named by their differences."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from dit_lab.cli.main import main
from dit_lab.core.errors import RequestError
from dit_lab.report.arms import arms_of
from dit_lab.report.question import report_on, report_on_sweep
from dit_lab.report.runs import Run, results
from dit_lab.report.selection import chosen, find, runs_of, runs_of_sweep
from dit_lab.report.values import key_of, split, value_of
from dit_lab.runs.folder import RunFolder, write_json
from dit_lab.runs.manifest import SweepFolder
from tests.synthetic import finished_sweep

RATES = {"optimizer.lr": ["0.001", "0.002"], "seed": ["0", "1", "2"]}


def value(job: Mapping[str, str]) -> float:
    return 0.6 + float(job.get("optimizer.lr", 0.001)) * 100 + int(job["seed"]) / 1000


def sweep_of(root: Path, **axes: Sequence[str]) -> SweepFolder:
    return finished_sweep(
        root, {key.replace("__", "."): list(of) for key, of in axes.items()}, value
    )


def designs(runs: Sequence[Run]) -> dict[tuple[str, ...], list[int]]:
    """The configurations, each with its seeds."""
    found: dict[tuple[str, ...], list[int]] = {}
    for one in results(runs):
        found.setdefault(tuple(one.settings.values()), []).append(one.seed)
    return found


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "outputs"


# ---- values -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", 1), ("-2", -2), ("0.50", 0.5), ("1e-3", 0.001), ("true", True), ("None", None),
     ("1.2.3", "1.2.3"), ("pico", "pico"), ("[0.9, 1]", "[0.9,1]"), ("nan", "nan")],
)  # fmt: skip
def test_what_a_text_stands_for(text: str, value: object) -> None:
    assert value_of(text) == value
    assert type(value_of(text)) is type(value)


def test_equal_values_have_equal_keys() -> None:
    assert key_of("1e-3") == key_of("0.001")
    assert key_of("True") == key_of("true")
    assert key_of("1") == key_of("1.0") != key_of("true")
    assert key_of("[0.9,1]") == key_of("[0.9, 1]")


def test_commas_in_brackets_divide_nothing() -> None:
    assert split("a=1, b=[2,3],c={d:[4,5],e:6}") == ["a=1", "b=[2,3]", "c={d:[4,5],e:6}"]


# ---- sweeps that overlap ------------------------------------------------------------------------


def test_what_two_sweeps_have_counts_once(root: Path) -> None:
    first = finished_sweep(root, RATES, value)
    second = sweep_of(root, optimizer__lr=["0.002", "0.003"], seed=["1", "2", "3"])
    runs = runs_of([first, second], [])
    assert len(runs) == 6 + 6 - 2
    assert designs(runs) == {
        ("0.001",): [0, 1, 2], ("0.002",): [0, 1, 2, 3], ("0.003",): [1, 2, 3],
    }  # fmt: skip
    assert {run.name.rpartition(" of ")[2] for run in runs} == {first.root.name, second.root.name}


def test_one_value_may_be_written_in_several_ways(root: Path) -> None:
    first = sweep_of(root, optimizer__lr=["1e-3", "2e-3"], seed=["0", "1", "2"])
    second = sweep_of(root, optimizer__lr=["0.0010", "0.004"], seed=["0", "1", "2", "3"])
    assert designs(runs_of([first, second], [])) == {
        ("1e-3",): [0, 1, 2, 3], ("2e-3",): [0, 1, 2], ("0.004",): [0, 1, 2, 3],
    }  # fmt: skip


def test_the_job_that_has_finished_counts(root: Path) -> None:
    """Of the first sweep a job has not begun; the second one trained and measured it."""
    first = finished_sweep(root, RATES, value)
    manifest = first.read()
    manifest.jobs[0].status = "PENDING"
    first.job_result(manifest.jobs[0]).unlink()
    first.write(manifest)
    second = sweep_of(root, optimizer__lr=["0.001"], seed=["0", "1"])
    runs = runs_of([first, second], [])
    assert len(runs) == 6
    assert designs(runs) == {("0.001",): [0, 1, 2], ("0.002",): [0, 1, 2]}
    assert {run.status for run in runs} == {"FINISHED"}


def test_jobs_that_were_measured_otherwise_are_others(root: Path) -> None:
    first = sweep_of(root, sampler__steps=["10", "20"], seed=["0", "1", "2"])
    second = sweep_of(root, sampler__steps=["20", "50"], seed=["0", "1", "2"])
    runs = runs_of([first, second], [])
    assert len({run.folder for run in runs}) == 3
    assert designs(runs) == {("10",): [0, 1, 2], ("20",): [0, 1, 2], ("50",): [0, 1, 2]}


# ---- single runs --------------------------------------------------------------------------------


def test_a_single_run_is_a_further_seed_or_a_further_configuration(root: Path) -> None:
    sweep = finished_sweep(root, RATES, value)
    more = sweep_of(root, optimizer__lr=["0.002", "0.008"], seed=["2", "7"])
    folders = [more.run(job) for job in more.read().jobs]
    runs = runs_of([sweep], folders)
    assert len(runs) == 6 + 3  # 0.002 with seed 2 is a job of the sweep
    assert designs(runs) == {("0.001",): [0, 1, 2], ("0.002",): [0, 1, 2, 7], ("0.008",): [2, 7]}
    assert [run.name for run in runs[6:]] == [str(folder.root) for folder in folders[1:]]


def test_a_single_run_that_differs_in_what_follows_from_an_axis(root: Path) -> None:
    """A key that an arm sets, and no column: the run says what it is, and the arms their names."""
    sweep = as_arms(sweep_of(root, objective__time_sampling=["uniform", "cosmap"], seed=["0", "1"]))
    other = sweep_of(root, objective__time_sampling=["logit_normal"], seed=["0", "1"])
    runs = runs_of([sweep], [other.run(job) for job in other.read().jobs])
    assert {tuple(run.settings) for run in runs} == {("arm", "seed", "objective.time_sampling")}
    assert designs(runs) == {
        ("base", "-"): [0, 1], ("cos", "-"): [0, 1], ("-", "logit_normal"): [0, 1],
    }  # fmt: skip


def test_sweeps_and_runs_are_found_by_every_name(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = finished_sweep(root, {"seed": ["0", "1"]}, value)
    manifest = sweep.read()
    manifest.parent_run_id = "a" * 32
    sweep.write(manifest)
    run = sweep.run(manifest.jobs[1])
    status = json.loads(run.status.read_text())
    write_json(run.status, {**status, "tracking_run_id": "b" * 32})
    for given in (str(sweep.root), sweep.root.name, "a" * 32):
        assert find(given, root=root) == SweepFolder(sweep.root.resolve())
    for given in (str(run.root), f"{run.root.parent.name}/{run.root.name}", "b" * 32):
        found = find(given, root=root)
        assert isinstance(found, RunFolder) and found.root.resolve() == run.root.resolve()
    with pytest.raises(RequestError, match="quickstart: holds 2 runs"):
        find("quickstart", root=root)
    monkeypatch.chdir(root.parent)
    Path("alone").mkdir()  # such as a folder of pictures
    shutil.copytree(run.root, root / "runs/alone" / run.root.name)
    assert find("alone", root=root) == RunFolder(root / "runs/alone" / run.root.name)
    with pytest.raises(RequestError, match="nothing: no sweep and no run; give a folder below"):
        find("nothing", root=root)


def test_the_command_mixes_sweeps_and_runs(root: Path, capsys: pytest.CaptureFixture) -> None:
    sweep = finished_sweep(root, RATES, value)
    more = sweep_of(root, optimizer__lr=["0.002"], seed=["3", "4"])
    one, other = (str(more.run(job).root) for job in more.read().jobs)
    given = ["report", sweep.root.name, one, f"runs={other},{one}", f"paths.root={root}"]
    assert main([*given, f"out={root / 'both'}"]) == 0
    with (root / "both/report.csv").open(newline="") as file:
        assert [(line["optimizer.lr"], line["n"]) for line in csv.DictReader(file)] == [
            ("0.001", "3"), ("0.002", "5"),
        ]  # fmt: skip
    assert f"# {sweep.root.name} and 2 more" in (root / "both/report.md").read_text()
    assert not sweep.report.exists()
    assert "is worse than" in capsys.readouterr().out


# ---- arms ---------------------------------------------------------------------------------------

ARMS = {
    "base": {"from": None, "overrides": []},
    "cos": {"from": "base", "overrides": ["objective.time_sampling=cosmap"]},
}


def as_arms(sweep: SweepFolder, **arms: object) -> SweepFolder:
    """The same sweep, as if `arm=base,cos` had been typed."""
    manifest = sweep.read()
    names = {"uniform": "base", "cosmap": "cos"}
    for job in manifest.jobs:
        text = job.overrides[0].partition("=")[2]
        job.overrides[0] = f"arm={names[text]}"
    manifest.axes = {"arm": [*ARMS], "seed": manifest.axes["seed"]}
    manifest.arms = {**ARMS, **arms}  # type: ignore[dict-item]
    sweep.write(manifest)
    return sweep


SAMPLINGS = {"objective__time_sampling": ["uniform", "cosmap"], "seed": ["0", "1", "2"]}


def test_a_sweep_of_arms_says_what_they_are(root: Path) -> None:
    sweep = as_arms(sweep_of(root, **SAMPLINGS))
    ablation, files, _ = report_on_sweep(sweep, metric="eval/two_sample_pixels_held_out_n360")
    assert [(one.arm, one.reference) for one in ablation.steps] == [("cos", "base")]
    assert {"steps.csv", "steps.tex"} < {file.name for file in files}
    text = (sweep.report / "report.md").read_text()
    assert "| cos | base | objective.time_sampling=cosmap |" in text


def test_runs_of_what_an_arm_is_are_seeds_of_it(root: Path) -> None:
    """A sweep without arms and a single run have the configuration of the arm `base`."""
    sweep = as_arms(sweep_of(root, **SAMPLINGS))
    seeds = sweep_of(root, seed=["2", "3"])
    single = sweep_of(root, seed=["4"])
    runs = runs_of([seeds, sweep], [single.run(single.read().jobs[0])])
    found = {key: sorted(of) for key, of in designs(runs).items()}
    assert found == {("base",): [0, 1, 2, 3, 4], ("cos",): [0, 1, 2]}


def test_one_arm_is_the_same_in_all_sweeps(root: Path, tmp_path: Path) -> None:
    first, second = (as_arms(sweep_of(root, **SAMPLINGS)) for _ in range(2))
    manifests = [(one.root.name, one.read()) for one in (first, second)]
    arms = arms_of(manifests)
    assert list(arms) == ["base", "cos"] and arms["cos"].stands_on == "base"
    ablation, _ = report_on(runs_of([first, second], []), tmp_path / "out", title="x", arms=arms)
    assert [c.sample.n for c in ablation.configurations] == [3, 3]
    manifests[1][1].arms["cos"]["overrides"].append("optimizer.lr=0.1")
    with pytest.raises(
        RequestError, match=r"arm=cos: is objective\.time_sampling=cosmap on base in"
    ):
        arms_of(manifests)


# ---- a part of the runs -------------------------------------------------------------------------


def test_only_some_values(root: Path) -> None:
    runs = runs_of_sweep(
        sweep_of(root, optimizer__lr=["0.001", "0.002", "0.004"], seed=["0", "1", "2"])
    )
    kept = chosen(runs, {"optimizer.lr": ["1e-3", "0.004"], "seed": ["0", "2"]})
    assert designs(kept) == {("0.001",): [0, 2], ("0.004",): [0, 2]}
    assert chosen(runs, {}) == runs
    with pytest.raises(
        RequestError, match=r"lr=0\.1: no setting of these runs; they have seed, opti"
    ):
        chosen(runs, {"lr": ["0.1"]})
    with pytest.raises(RequestError, match=r"no run has 0\.1; optimizer\.lr is 0\.001, 0\.002, 0"):
        chosen(runs, {"optimizer.lr": ["0.001", "0.1"]})


def test_the_command_reports_on_a_part(root: Path) -> None:
    """Into a folder of its own: the sweep's report stays."""
    sweep = finished_sweep(root, {**RATES, "model": ["pico", "nano"]}, value)
    only = "report.only=optimizer.lr=0.001,0.002,model=pico,seed=0,1,2"
    given = ["report", sweep.root.name, f"paths.root={root}", only]
    assert main([*given, "report.baseline=optimizer.lr=0.002"]) == 0
    (written,) = (root / "reports").glob("*/report.md")
    text = written.read_text()
    assert "2 configurations, seeds 0, 1, 2, 6 of 6 runs" in text
    assert "Baseline: optimizer.lr=0.002." in text
    assert "The same in all runs: model=pico." in text
    assert not sweep.report.exists()
    assert main([*given[:3], f"out={root / 'all'}"]) == 0
    assert (root / "all/report.md").exists() and not sweep.report.exists()
