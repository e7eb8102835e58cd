"""From run folders to the records of a report, with synthetic numbers."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from dit_lab.cli.main import main
from dit_lab.core.errors import RequestError
from dit_lab.report.metrics import leading_metric
from dit_lab.report.question import report_on, report_on_sweep
from dit_lab.report.runs import Run, results
from dit_lab.report.selection import _pick, runs_of, runs_of_folders, runs_of_sweep
from dit_lab.runs.folder import RunFolder, update_status, write_json
from dit_lab.runs.manifest import SweepFolder
from tests.synthetic import HELD_OUT, STEPS, finished_sweep

AXES = {"objective": ["rectified_flow", "flow_matching"], "optimizer.lr": ["0.001", "0.002"],
        "seed": ["0", "1", "2"]}  # fmt: skip


def value(job: Mapping[str, str]) -> float:
    """Rates differ by 0.1, objectives do not."""
    return 0.6 + (job["optimizer.lr"] == "0.002") / 10 + int(job["seed"]) / 1000


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made") / "outputs"
    finished_sweep(root, AXES, value)
    return root


@pytest.fixture
def sweep(made: Path, tmp_path: Path) -> SweepFolder:
    """A copy: nothing in a sweep depends on where it lies."""
    shutil.copytree(made, tmp_path / "moved", symlinks=True)
    (folder,) = (tmp_path / "moved/sweeps").iterdir()
    return SweepFolder(folder)


def test_one_record_a_job(sweep: SweepFolder) -> None:
    found = results(runs_of_sweep(sweep))
    assert len(found) == 12
    first, last = found[0], found[-1]
    assert first.settings == {"objective": "rectified_flow", "optimizer.lr": "0.001"}
    assert (last.settings["optimizer.lr"], last.seed) == ("0.002", 2)
    assert last.metrics[HELD_OUT] == 0.702
    assert last.metrics["eval/loss"] == 0.351
    assert last.deviations[HELD_OUT] == 0.02
    assert first.curves["train/loss"][0] == (50, 1 / 50)
    assert len({result.protocol for result in found}) == 1  # of different objectives
    assert len({result.code for result in found}) == len({result.data for result in found}) == 1


def test_weights_that_are_an_axis_are_the_configurations_own(tmp_path: Path) -> None:
    """They are called as they are typed, measured by one protocol all the same, and the loss, which
    is that of one average, is not shown as theirs."""
    axes = {"sample.weights": ["raw", r"ema\:0.999"], "seed": ["0", "1", "2"]}
    runs = runs_of_sweep(finished_sweep(tmp_path, axes, lambda job: 0.6))
    found = results(runs)
    ablation, _ = report_on(runs, tmp_path / "report", title="weights")
    assert "eval/loss" not in ablation.question.secondary
    assert [one.settings["sample.weights"] for one in found[2:4]] == ["raw", "ema:0.999"]
    assert len({one.protocol for one in found}) == 1


def test_the_average_that_a_run_keeps_is_its_own(tmp_path: Path) -> None:
    """An optimizer decides which one that is, and so do decays; another average of the same run is
    another measurement."""
    axes = {"optimizer": ["adamw", "schedule_free_adamw"], "seed": ["0", "1", "2"]}
    runs = runs_of_sweep(finished_sweep(tmp_path, axes, lambda job: 0.6))
    weights = [one.evaluation.card.weights for one in runs if one.evaluation]
    assert set(weights) == {"ema-0.999", "schedule_free"}
    assert len({one.protocol for one in results(runs)}) == 1
    (last,) = results([_with_weights(runs[-1], "ema-0.999")])
    assert last.protocol != results(runs)[-1].protocol


def _with_weights(run: Run, weights: str) -> Run:
    assert run.evaluation is not None
    card = replace(run.evaluation.card, weights=weights)
    return replace(run, evaluation=replace(run.evaluation, card=card))


def test_losses_at_other_times_are_not_shown_side_by_side(tmp_path: Path) -> None:
    axes = {"objective.time_sampling": ["uniform", "cosmap"], "seed": ["0", "1", "2"]}
    sweep = finished_sweep(tmp_path, axes, lambda job: 0.6)
    ablation, _ = report_on(runs_of_sweep(sweep), tmp_path / "report", title="times")
    assert "eval/loss" not in ablation.question.secondary
    with pytest.raises(
        RequestError, match=r"\(rectified_flow time_sampling=cosmap, rectified_flow"
    ):
        report_on(runs_of_sweep(sweep), tmp_path / "other", title="times", metric="eval/loss")


def test_what_it_took(sweep: SweepFolder) -> None:
    compute = results(runs_of_sweep(sweep))[0].compute
    assert compute is not None
    assert compute.images == STEPS * 128
    assert compute.seconds == STEPS * 128 / 256
    assert compute.parameters is not None and 250_000 < compute.parameters < 350_000  # pico
    assert compute.training_flops is not None and compute.training_flops > 1e9


def test_the_answer(sweep: SweepFolder) -> None:
    ablation, files, trouble = report_on_sweep(sweep)
    assert trouble == ""
    assert ablation.question.metric == HELD_OUT
    assert ablation.question.lower_is_better
    by_label = dict(
        zip((c.label(ablation.axes) for c in ablation.configurations), ablation.comparisons,
            strict=True)
    )  # fmt: skip
    worse = by_label["objective=rectified_flow, optimizer.lr=0.002"]
    assert worse.verdict == "worse"
    assert worse.difference == pytest.approx(0.1)
    (agreement, other) = ablation.agreements
    assert agreement.agrees and other.agrees
    assert agreement.reason.startswith("the same mathematics")
    assert {path.name for path in files} >= {"report.html", "report.md", "report.csv"}
    assert all(path.parent == sweep.report for path in files)


def test_another_metric_and_baseline(sweep: SweepFolder) -> None:
    baseline = {"objective": "flow_matching", "optimizer.lr": "0.002"}
    ablation, _, _ = report_on_sweep(
        sweep, metric="eval/recall_pixels_held_out_n360", baseline=baseline
    )
    assert not ablation.question.lower_is_better
    assert ablation.baseline.settings == baseline


@pytest.mark.parametrize(
    ("measured", "leads"),
    [
        (["eval/loss", "eval/two_sample_classifier_held_out_n682"], 1),
        (["eval/two_sample_classifier_held_out_n682", "eval/two_sample_pixels_n2048"], 1),
        (["eval/two_sample_classifier_n2048", "eval/two_sample_classifier_held_out_n682"], 1),
        (["eval/loss", "eval/recall_classifier_held_out_n682"], 0),
    ],
)
def test_runs_are_judged_by_trees_through_whatever_they_look(
    measured: list[str], leads: int
) -> None:
    assert leading_metric(measured) == measured[leads]


def test_a_job_that_failed_is_a_missing_seed(sweep: SweepFolder) -> None:
    manifest = sweep.read()
    manifest.jobs[2].status = "FAILED"
    sweep.write(manifest)
    ablation, _, _ = report_on_sweep(sweep)
    assert ablation.configurations[0].missing == {2: "FAILED"}
    assert "not enough seeds" in {str(one.verdict) for one in ablation.comparisons}


def test_a_job_that_diverged_says_so(sweep: SweepFolder) -> None:
    manifest = sweep.read()
    for number, why in ((1, "diverged: 9 of 10 steps"), (2, "KeyError: 'loss'")):
        manifest.jobs[number].status = "FAILED"
        update_status(sweep.run(manifest.jobs[number]), status="FAILED", error=why)
    sweep.write(manifest)
    ablation, _, _ = report_on_sweep(sweep)
    assert ablation.configurations[0].missing == {1: "diverged", 2: "FAILED"}


def test_a_job_whose_run_or_evaluation_is_away_is_a_missing_seed(sweep: SweepFolder) -> None:
    """And the others are reported."""
    jobs = sweep.read().jobs
    shutil.rmtree(sweep.run(jobs[0]).root)
    (sweep.run(jobs[1]).evaluations / sweep.read_result(jobs[1])["evaluation"]).unlink()
    ablation, files, _ = report_on_sweep(sweep)
    assert ablation.configurations[0].missing == {
        0: "run folder is missing", 1: "evaluation is missing",
    }  # fmt: skip
    assert [len(c.measured) for c in ablation.configurations] == [1, 3, 3, 3]
    (page,) = [file for file in files if file.suffix == ".md"]
    assert "1 of 3: seed 0 run folder is missing; seed 1 evaluation is missing" in page.read_text()


def test_other_code_is_flagged(sweep: SweepFolder) -> None:
    """By the files that runs share: what one objective has and another has not is no difference."""
    ablation, _, _ = report_on_sweep(sweep)
    assert not any("code" in flag for flag in ablation.flags)
    identity = sweep.run(sweep.read().jobs[0]).identity
    found = json.loads(identity.read_text())
    files = {**found["code_files"], "dit_lab/models/dit.py": "other"}
    write_json(identity, {**found, "code_files": files})
    ablation, _, _ = report_on_sweep(sweep)
    (flag,) = (flag for flag in ablation.flags if "code" in flag)
    assert "11 runs have" in flag
    before = {key: value for key, value in found.items() if key != "code_hash_of"}
    write_json(identity, before)  # of before code had a meaning: unknown
    ablation, _, _ = report_on_sweep(sweep)
    assert not any("code" in flag for flag in ablation.flags)


def test_a_number_that_does_not_count_is_said_to_be_one(sweep: SweepFolder) -> None:
    job = sweep.read().jobs[0]
    (path,) = sweep.run(job).evaluations.iterdir()
    content = json.loads(path.read_text())
    for row in content["rows"]:
        row["caveat"] = "the samples copy training images"
    write_json(path, content)
    ablation, _, _ = report_on_sweep(sweep)
    assert ablation.question.remarks == [
        f"{HELD_OUT} does not count in 1 of 12 runs, because the samples copy training images "
        "(job 0)"
    ]


def test_any_runs_are_told_apart_by_what_differs(sweep: SweepFolder, tmp_path: Path) -> None:
    folders = [sweep.run(job) for job in sweep.read().jobs]
    runs = runs_of_folders(folders)
    assert runs[0].settings.keys() == {"seed", "objective", "optimizer.lr"}  # and no sigma_min
    ablation, files = report_on(runs, tmp_path / "out", title="any")
    assert len(ablation.configurations) == 4
    assert files[0] == tmp_path / "out/report.html"


def test_seeds_of_an_evaluation_are_its_spread(tmp_path: Path) -> None:
    """Four draws of samples from each of three trainings: three repeats, not twelve."""
    axes = {"seed": ["0", "1", "2"], "sample.seed": ["0", "1", "2", "3"]}
    sweep = finished_sweep(
        tmp_path / "outputs", axes, lambda job: int(job["seed"]) + int(job["sample.seed"]) / 10
    )
    found = results(runs_of_sweep(sweep))
    assert [result.metrics[HELD_OUT] for result in found] == pytest.approx([0.15, 1.15, 2.15])
    assert [r.deviations[HELD_OUT] for r in found] == pytest.approx([0.129099] * 3, rel=1e-5)
    assert {tuple(result.settings) for result in found} == {()}


def test_losses_of_different_objectives_are_refused(sweep: SweepFolder) -> None:
    with pytest.raises(RequestError, match="different quantities"):
        report_on_sweep(sweep, metric="eval/loss")


def drop_option(sweep: SweepFolder) -> None:
    """As a sweep leaves out an option that some objectives do not have: the jobs of flow_matching
    have no rate, and each is there once."""
    manifest = sweep.read()
    kept = [
        job for job in manifest.jobs
        if {"objective=rectified_flow", "optimizer.lr=0.001"} & {*job.overrides}
    ]  # fmt: skip
    for number, job in enumerate(kept):
        (sweep.root / "jobs" / job.label).rename(sweep.root / "jobs" / f"moved-{number}")
        job.number = number
        (sweep.root / "jobs" / f"moved-{number}").rename(sweep.root / "jobs" / job.label)
        if "objective=flow_matching" in job.overrides:
            job.overrides.remove("optimizer.lr=0.001")
    manifest.jobs = kept
    sweep.write(manifest)


def test_an_axis_that_some_jobs_do_not_have(
    sweep: SweepFolder, capsys: pytest.CaptureFixture
) -> None:
    drop_option(sweep)
    runs = runs_of_sweep(sweep)
    assert all(list(run.settings) == list(AXES) for run in runs)
    ablation, files, _ = report_on_sweep(sweep)
    labels = [c.label(ablation.axes) for c in ablation.configurations]
    assert labels == [
        "objective=rectified_flow, optimizer.lr=0.001",
        "objective=rectified_flow, optimizer.lr=0.002", "objective=flow_matching",
    ]  # fmt: skip
    assert ablation.flags == ()
    written = next(file for file in files if file.name == "report.md").read_text()
    assert "| flow_matching | - | 3 |" in written
    rows = [line.split(" | ") for line in written.splitlines() if line.startswith("| o")]
    assert [(row[0], row[1], row[-2], row[-1]) for row in rows[-2:]] == [
        ("| objective", "flow_matching", "1 of 1", "averaged over optimizer.lr |"),
        ("| optimizer.lr", "0.002", "1 of 1", "over 2 of 3 configurations, which have it |"),
    ]
    assert "## Interactions" not in written
    assert main(["sweep", "status", str(sweep.root)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["8", "flow_matching", "-", "2", "FINISHED"] in [words[:5] for words in lines]


# ---- several sweeps -----------------------------------------------------------------------------

BUDGETS = {"sampler": ["euler", "heun"], "sampler.steps": ["10", "20"], "seed": ["0", "1", "2"]}


def better_with_steps(job: Mapping[str, str]) -> float:
    steps, sampler = int(job["sampler.steps"]), job["sampler"]
    return 0.6 + (sampler == "euler") / 10 + 1 / steps + int(job["seed"]) / 1000


@pytest.fixture(scope="module")
def two_made(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sweep of objectives and rates, and one of samplers, whose cards say what they cost."""
    root = tmp_path_factory.mktemp("two") / "outputs"
    shutil.copytree(made, root, symlinks=True)
    budgets = finished_sweep(root, BUDGETS, better_with_steps)
    for run in runs_of_sweep(budgets):
        assert run.evaluation is not None
        card = run.evaluation.card
        passes = card.sampler["steps"] * (2 if "Heun" in card.sampler["_target_"] else 1)
        name = replace(card, evaluations_per_image=0.0).eval_hash
        assert name == card.eval_hash  # what it took is found, not asked
        counted = replace(card, evaluations_per_image=float(passes))
        replace(run.evaluation, card=counted).write(run.folder.evaluations)
    return root


@pytest.fixture
def two(two_made: Path, tmp_path: Path) -> list[SweepFolder]:
    shutil.copytree(two_made, tmp_path / "outputs", symlinks=True)
    folders = (SweepFolder(path) for path in (tmp_path / "outputs/sweeps").iterdir())
    return sorted(folders, key=lambda folder: "sampler" in folder.read().axes)


def test_sweeps_with_other_axes_are_told_apart_by_all_of_them(two: list[SweepFolder]) -> None:
    """An axis that a sweep does not have has one value there, and a run says whose job it is."""
    runs = runs_of(two, [])
    assert len(runs) == 24
    axes = {"objective", "optimizer.lr", "seed", "sampler", "sampler.steps"}
    assert all(run.settings.keys() == axes for run in runs)
    first, last = runs[0], runs[-1]
    assert first.name == f"job 0 of {two[0].root.name}"
    assert last.name == f"job 11 of {two[1].root.name}"
    assert first.settings == {"objective": "rectified_flow", "optimizer.lr": "0.001", "seed": "0",
                              "sampler": "heun", "sampler.steps": "25"}  # fmt: skip
    assert last.settings == {"objective": "rectified_flow", "optimizer.lr": "0.003", "seed": "2",
                             "sampler": "heun", "sampler.steps": "20"}  # fmt: skip
    found = results(runs)
    assert len({tuple(result.settings.items()) for result in found}) == 8
    assert len({result.protocol for result in found}) == 1


def test_a_run_among_the_settings_is_named_wherever_it_lies() -> None:
    weak = "/far/away/outputs/runs/weak/0123456789ab"
    config = {
        "paths": {"root": "/far/away/outputs"},
        "guidance": {"weak_run": weak, "scale": 2.0},
    }
    found = _pick(config, ["guidance.weak_run", "guidance.scale", "seed"])
    assert list(found.values()) == ["weak/0123456789ab", "2.0", "-"]


def test_evaluations_are_those_of_the_card(two: list[SweepFolder]) -> None:
    found = {
        (result.settings["sampler"], result.settings["sampler.steps"]): result.compute
        for result in results(runs_of(two, []))
    }
    taken = {key: compute and compute.evaluations for key, compute in found.items()}
    assert taken == {("heun", "25"): 50.0, ("euler", "10"): 10.0, ("euler", "20"): 20.0,
                     ("heun", "10"): 20.0, ("heun", "20"): 40.0}  # fmt: skip


def test_one_report_on_two_sweeps(two: list[SweepFolder], capsys: pytest.CaptureFixture) -> None:
    """By the command, into a folder of its own; evaluations differ, so that they are plotted."""
    root = two[0].root.parents[1]
    before = {folder.root: sorted(folder.root.rglob("*")) for folder in two}
    names = [folder.root.name for folder in two]
    assert main(["report", *names, f"paths.root={root}", f"out={root / 'both'}"]) == 0
    printed = capsys.readouterr().out
    assert f"in {root / 'both'}" in printed
    with (root / "both/report.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    axes = ("objective", "optimizer.lr", "sampler", "sampler.steps", "n", "evaluations")
    assert [[line[axis] for axis in axes] for line in lines] == [
        ["rectified_flow", "0.001", "heun", "25", "3", "50.0"],
        ["rectified_flow", "0.002", "heun", "25", "3", "50.0"],
        ["flow_matching", "0.001", "heun", "25", "3", "50.0"],
        ["flow_matching", "0.002", "heun", "25", "3", "50.0"],
        ["rectified_flow", "0.003", "euler", "10", "3", "10.0"],
        ["rectified_flow", "0.003", "euler", "20", "3", "20.0"],
        ["rectified_flow", "0.003", "heun", "10", "3", "20.0"],
        ["rectified_flow", "0.003", "heun", "20", "3", "40.0"],
    ]
    page = (root / "both/report.html").read_text()
    assert page.count("Quality against NFE") >= 1
    assert all(name in page for name in names)
    for folder in two:  # nothing is written into the sweeps themselves
        assert sorted(folder.root.rglob("*")) == before[folder.root]


def test_evaluations_are_plotted_where_they_differ_only(two: list[SweepFolder]) -> None:
    for folder, plotted in zip(two, (False, True), strict=True):
        report_on_sweep(folder)
        page = (folder.report / "report.html").read_text()
        assert ("Quality against NFE" in page) is plotted


def test_names_and_settings_are_of_one_line(tmp_path: Path) -> None:
    """Also those that no drawing could show."""
    run = Run(
        name="a\nb",
        folder=RunFolder(tmp_path),
        config={},
        settings={"mo\tdel": "\udcff\x1b[31m[/b]"},
        status="FINISHED",
        evaluation=None,
    )
    assert (run.name, run.settings) == ("a\\nb", {"mo\\tdel": "\\udcff\\x1b[31m[/b]"})
