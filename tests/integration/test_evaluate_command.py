"""Evaluation at the end of training and by `dit-lab evaluate`: once, with a card, in MLflow.

Commands that are stopped or killed are separate processes; others run in this process, which has
imported torch. Three trees replace 200 where the number of trees is irrelevant.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from dit_lab.cli.finished import show_results
from dit_lab.cli.main import main
from dit_lab.evaluation.card import Evaluation, read_evaluation
from dit_lab.evaluation.metrics import two_sample
from dit_lab.runs.folder import RunFolder
from dit_lab.runs.metrics import read_metrics

MEASURED = ["evaluation.num_images=120"]  # draws of 40
RESULT = r"result: eval/loss \d\.\d{4} after 40 steps, [\d.]+ s a step"

Point = tuple[str, int, float]


class Done(NamedTuple):
    """Exit code and output of a command."""

    code: int
    out: str
    err: str


Command = Callable[..., Done]


def typed(folder: Path, *arguments: str) -> Done:
    """`dit-lab` with few trees in this process, typed in a folder."""
    said, complained = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(complained),
    ):
        patch.chdir(folder)
        patch.setattr(two_sample, "TREES", 3)
        code = main(arguments)
    return Done(code, said.getvalue(), complained.getvalue())


@pytest.fixture
def dit_lab(tmp_path: Path) -> Command:
    """`dit_lab("evaluate", ...)` with few trees in this process, typed in an empty folder."""
    return partial(typed, tmp_path)


@pytest.fixture(scope="module")
def training(tiny: list[str]) -> list[str]:
    """Overrides of a training that ends with an evaluation."""
    return [*tiny, *MEASURED]


class Run(NamedTuple):
    """A finished training, where it was typed, and what it printed."""

    folder: Path
    root: Path
    out: str


@pytest.fixture(scope="module")
def straight(
    tmp_path_factory: pytest.TempPathFactory,
    store_in: Callable[[Path], None],
    training: list[str],
) -> Run:
    """The uninterrupted training, tracked by MLflow. Tests that write take a copy."""
    folder = tmp_path_factory.mktemp("straight")
    store_in(folder)
    done = typed(folder, "train", *training)
    assert done.code == 0, done.err
    return Run(only_run(folder), folder, done.out)


def only_run(folder: Path) -> Path:
    (run,) = folder.glob("outputs/runs/*/*")
    return run


@pytest.fixture
def untracked(straight: Run, tmp_path: Path) -> Path:
    """A copy of the run that is in no tracker."""
    copy = tmp_path / "copy"
    shutil.copytree(straight.folder, copy)
    edit_json(copy / "status.json", tracking_run_id=None)
    return copy


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def only_evaluation(run: Path) -> tuple[Path, Evaluation]:
    (path,) = (run / "evaluations").iterdir()
    return path, read_evaluation(path)


def new_evaluation(run: Path, before: Path) -> tuple[Path, Evaluation]:
    """Return the evaluation that was written in addition to `before`."""
    (path,) = {path for path in (run / "evaluations").iterdir() if path.name != before.name}
    return path, read_evaluation(path)


def files_of(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def tracked(folder: Path) -> list[Point]:
    """Every point of an `eval` metric that MLflow has."""
    with sqlite3.connect(folder / "outputs/mlflow.db") as store:
        query = "select key, step, value from metrics where key like 'eval%' order by key, step"
        return store.execute(query).fetchall()


def points_of(evaluation: Evaluation, prefix: str = "eval/") -> set[Point]:
    """Return the points that a tracker should have of an evaluation."""
    return {
        (prefix + key.removeprefix("eval/"), evaluation.card.step, value)
        for key, value in evaluation.metrics.items()
    }


def table_of(text: str) -> list[str]:
    """Return the lines of a printed table, from its head to the line of conditions."""
    lines = text.splitlines()
    first = next(n for n, line in enumerate(lines) if line.startswith("metric "))
    last = next(n for n, line in enumerate(lines) if " at step " in line and "guidance" in line)
    return lines[first : last + 1]


# ---- at the end of a training -------------------------------------------------------------------


def test_a_training_ends_with_an_evaluation(straight: Run) -> None:
    path, evaluation = only_evaluation(straight.folder)
    card = evaluation.card
    assert path.stem == card.eval_hash
    assert (card.run, card.step, card.weights) == (straight.folder.name, 40, "ema-0.9")
    assert (card.num_images, card.evaluations_per_image, card.dtype) == (120, 2.0, "float32")
    assert (card.device, card.num_threads) == (os.uname().machine, 1)
    assert card.reference["levels"] == 17
    identity = json.loads((straight.folder / "identity.json").read_text())
    assert card.code["trained"] == identity["code_hash"]
    assert card.reference["data"] == identity["data_fingerprint"]
    rows = [
        (key, row.step, value)
        for row in read_metrics(straight.folder / "metrics.jsonl")
        for key, value in row.metrics.items()
        if key.startswith("eval/") and key != "eval/loss"
    ]
    assert len(rows) == len(set(rows)) == 13
    assert set(rows) == points_of(evaluation)
    results = json.loads((straight.folder / "status.json").read_text())["results"]
    assert evaluation.metrics.items() <= results.items()


def test_mlflow_has_the_evaluation_once(straight: Run) -> None:
    path, evaluation = only_evaluation(straight.folder)
    points = [point for point in tracked(straight.root) if point[0] != "eval/loss"]
    assert sorted(points) == sorted(points_of(evaluation))
    (artifact,) = (straight.root / "outputs/mlartifacts").rglob(path.name)
    assert artifact.parent.name == "evaluations"
    assert artifact.read_bytes() == path.read_bytes()


def test_the_table_is_printed_and_says_what_it_needs(straight: Run) -> None:
    _, evaluation = only_evaluation(straight.folder)
    lines = table_of(straight.out)
    assert lines[0].split() == ["metric", "against", "images", "generated", "real", "images"]
    for row, line in zip(evaluation.rows, lines[1:], strict=False):
        words = line.replace("(", "").replace(")", "").split()
        assert words[:4] == [row.metric, row.against, str(row.num_images), f"{row.value:.3f}"]
        assert ("(" in line) == bool(row.caveat)
        assert (line.split()[-1] == "-") == (row.floor is None)
    assert lines[-1] == (
        "ema-0.9 at step 40, Euler with 2 steps (NFE 2), guidance 1, seed 0, "
        "float32, labels as frequent as in the training images"
    )
    (wanted,) = [line for line in lines if line.startswith("ideal values: ")]
    assert "two_sample 0.5" in wanted
    findings = [line for line in lines if line.startswith("generated: ")]
    assert [line.partition(": ")[2].partition("; ignore")[0] for line in findings] == (
        evaluation.findings
    )
    (result,) = [line for line in straight.out.splitlines() if line.startswith("result: ")]
    assert re.fullmatch(RESULT, result)


def test_the_same_command_shows_it_again_and_changes_nothing(
    straight: Run, training: list[str]
) -> None:
    before, points = files_of(straight.folder), tracked(straight.root)
    done = typed(straight.root, "train", *training)
    assert done.code == 0, done.err
    assert "already finished" in done.out
    assert table_of(done.out) == table_of(straight.out)
    assert files_of(straight.folder) == before
    assert tracked(straight.root) == points


def test_too_few_images_are_not_measured_and_the_log_says_why(
    dit_lab: Command, tiny: list[str], tmp_path: Path
) -> None:
    short = [*tiny, "training.total_steps=2", "tracking=none"]
    done = dit_lab("train", *short, "evaluation.num_images=29")
    assert done.code == 0, done.err
    run = only_run(tmp_path)
    assert not (run / "evaluations").exists()
    assert "samples are not measured: evaluation.num_images=29: " in (run / "train.log").read_text()
    assert "metric " not in done.out


# ---- afterwards ---------------------------------------------------------------------------------


def test_what_was_measured_is_not_measured_again(dit_lab: Command, straight: Run) -> None:
    before, points = files_of(straight.folder), tracked(straight.root)
    run_id = json.loads((straight.folder / "status.json").read_text())["tracking_run_id"]
    path, _ = only_evaluation(straight.folder)
    root = f"paths.root={straight.root / 'outputs'}"
    for name in (straight.folder, straight.folder.parent, run_id):
        done = dit_lab("evaluate", f"run={name}", root)
        assert done.code == 0, done.err
        assert done.out.splitlines()[-1] == f"measured before: {path}"
        assert table_of(done.out) == table_of(straight.out)
    assert files_of(straight.folder) == before
    assert tracked(straight.root) == points


def test_the_command_finds_what_the_training_found(dit_lab: Command, untracked: Path) -> None:
    """The same bits: the same images, draws and trees, in another process."""
    path, _ = only_evaluation(untracked)
    expected = path.read_bytes()
    path.unlink()
    done = dit_lab("evaluate", f"run={untracked}")
    assert done.code == 0, done.err
    assert "drawing 120 images from ema-0.9 at step 40" in done.out
    assert done.out.splitlines()[-1] == f"written: {path}"
    assert path.read_bytes() == expected


def test_two_measurements_side_by_side(dit_lab: Command, untracked: Path, tmp_path: Path) -> None:
    """Of the same weights, and of other weights on another machine."""
    path, evaluation = only_evaluation(untracked)
    same = dit_lab("evaluate", "--compare", str(untracked), str(path))
    assert same.code == 0, same.err
    assert same.out.splitlines()[0] == "the same evaluation of the same weights"
    other = tmp_path / "other.json"
    other.write_text(path.read_text().replace('"run": "', '"run": "0'))
    edit_json(other, card={**json.loads(other.read_text())["card"], "device": "a GPU"})
    compared = dit_lab("evaluate", "--compare", str(untracked), str(other))
    lines = compared.out.splitlines()
    assert (compared.code, lines[0], lines[-1]) == (0, "models and training", "comparable")
    assert "different conditions: results may differ in their last digits" in lines
    rows = [line for line in lines if line.startswith("eval/")]
    assert len(rows) == len(evaluation.rows)


def test_other_code_or_versions_are_measured_anew(dit_lab: Command, untracked: Path) -> None:
    path, _ = only_evaluation(untracked)
    content = path.read_text()
    for was, other in (('"evaluated": "', '"evaluated": "0'), ('"torch": "', '"torch": "1.')):
        path.write_text(content.replace(was, other))
        done = dit_lab("evaluate", f"run={untracked}")
        assert done.out.splitlines()[-1] == f"written: {path}"
        assert path.read_text() == content


def test_another_protocol_has_a_file_and_names_of_its_own(
    dit_lab: Command, straight: Run, tmp_path: Path
) -> None:
    """In a copy of everything, MLflow's store too."""
    root, path = copy_of_everything(straight, tmp_path)
    own, before = read_evaluation(path), tracked(root)
    choices = ["sampler=heun", "sampler.steps=3", "guidance.scale=2"]
    done = dit_lab("evaluate", f"run={only_run(root)}", *choices)
    assert done.code == 0, done.err
    new, evaluation = new_evaluation(only_run(root), path)
    assert evaluation.card.sampler["steps"] == 3
    assert evaluation.card.evaluations_per_image == 3 * 2 * 2  # both halves of Heun, both labels
    assert "Heun with 3 steps (NFE 12), guidance 2" in done.out
    assert read_evaluation(path) == own
    added = [point for point in tracked(root) if point not in before]
    assert sorted(added) == sorted(points_of(evaluation, f"eval-{evaluation.card.protocol}/"))
    assert len(tracked(root)) == len(before) + len(added)
    artifacts = root / "outputs/mlartifacts"
    assert [found.read_bytes() for found in artifacts.rglob(new.name)] == [new.read_bytes()]
    again = dit_lab("evaluate", f"run={only_run(root)}", *choices)
    assert again.out.splitlines()[-1] == f"measured before: {new}"
    assert len(tracked(root)) == len(before) + len(added)
    compared = dit_lab("evaluate", "--compare", str(path), str(only_run(root)))  # its newest
    assert compared.code == 1, compared.err
    said = [line.split() for line in compared.out.splitlines()]
    assert ["sampler.steps", "2", "3"] in said and ["sampler", "Euler", "Heun"] in said
    assert ["guidance.scale", "1.0", "2.0"] in said and said[-1] == ["not", "comparable"]


def copy_of_everything(straight: Run, tmp_path: Path) -> tuple[Path, Path]:
    """The folder of the training, with paths and the store updated to the copy.

    The run in the store is copied too: MLflow caches for the life of a process where a run's files
    are.
    """
    root, run_id = tmp_path / "all", "c0" * 16
    shutil.copytree(straight.root, root)
    config = only_run(root) / "config.yaml"
    config.write_text(config.read_text().replace(str(straight.root), str(root)))
    edit_json(only_run(root) / "status.json", tracking_run_id=run_id)
    with sqlite3.connect(root / "outputs/mlflow.db") as store:
        change = "update runs set artifact_uri = replace(artifact_uri, ?, ?)"
        store.execute(change, (str(straight.root), str(root)))
        for table in ("runs", "metrics", "latest_metrics", "params", "tags"):
            store.execute(f"update {table} set run_uuid = ?", [run_id])
    return root, only_evaluation(only_run(root))[0]


def test_other_weights_and_steps(dit_lab: Command, straight: Run, tmp_path: Path) -> None:
    """Raw weights are another protocol; an earlier checkpoint is an earlier point of the curve."""
    root, path = copy_of_everything(straight, tmp_path)
    before = tracked(root)
    assert dit_lab("evaluate", f"run={only_run(root)}", "sample.weights=raw").code == 0
    raw, evaluation = new_evaluation(only_run(root), path)
    assert evaluation.card.weights == "model"
    points = points_of(evaluation, f"eval-{evaluation.card.protocol}/")
    assert {point for point in tracked(root) if point not in before} == points
    raw.unlink()
    before = tracked(root)
    done = dit_lab("evaluate", f"run={only_run(root)}/checkpoints/step-00000010")
    assert done.code == 0, done.err
    _, early = new_evaluation(only_run(root), path)
    assert (early.card.step, early.card.weights) == (10, "ema-0.9")
    assert early.card.protocol == read_evaluation(path).card.protocol
    assert {point for point in tracked(root) if point not in before} == points_of(early)


def test_baselines_are_columns_of_the_same_table(
    dit_lab: Command, untracked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")  # of which it needs more
    path, _ = only_evaluation(untracked)
    done = dit_lab("evaluate", f"run={untracked}", "baselines=true")
    assert done.code == 0, done.err
    lines = table_of(done.out)
    heads = re.split(r" {2,}", lines[0])
    assert heads[3:] == ["generated", "memoriser", "class Gaussian", "real images"]
    values = {line.split()[0]: re.split(r" {2,}", line)[3:] for line in lines[1:17]}
    assert values["exact_copies"][1:3] == ["1.000", "0.000"]
    assert values["class_accuracy"][1] == "(1.000)"
    assert not any("…" in line for line in lines)  # nothing cut short
    said = "memoriser: the samples copy training images; ignore values in (  )"
    assert said in lines
    assert not any(line.startswith("class Gaussian: the samples copy") for line in lines)
    assert only_evaluation(untracked)[0] == path  # only the run's own samples are kept


def test_other_precision_is_another_protocol(dit_lab: Command, untracked: Path) -> None:
    path, own = only_evaluation(untracked)
    done = dit_lab("evaluate", f"run={untracked}", "precision=bf16")
    assert done.code == 0, done.err
    assert ", bf16 autocast, labels" in done.out
    _, other = new_evaluation(untracked, path)
    assert (own.card.dtype, other.card.dtype) == ("float32", "bf16 autocast")
    assert own.card.protocol != other.card.protocol
    assert own.metrics != other.metrics


def test_a_newer_table_leaves_the_result_line_alone(
    dit_lab: Command, untracked: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It shows the losses of the training, whatever was evaluated since."""
    assert dit_lab("evaluate", f"run={untracked}", "evaluation.num_images=90").code == 0
    show_results(RunFolder(untracked))
    result, *_ = capsys.readouterr().out.splitlines()
    assert re.fullmatch(RESULT, result)


def test_mlflow_that_cannot_be_reached_costs_a_line(
    dit_lab: Command, straight: Run, untracked: Path
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = untracked / "config.yaml"
    uri = f"sqlite:///{straight.root / 'outputs/mlflow.db'}"
    assert uri in config.read_text()
    config.write_text(config.read_text().replace(uri, f"http://127.0.0.1:{port}"))
    edit_json(untracked / "status.json", tracking_run_id="0" * 32)
    path, _ = only_evaluation(untracked)
    path.unlink()
    started = time.monotonic()
    done = dit_lab("evaluate", f"run={untracked}", f"tracking.uri=http://127.0.0.1:{port}")
    assert done.code == 0
    *_, written, trouble = done.out.splitlines()
    assert written == f"written: {path}"
    assert re.fullmatch(
        r"MLflow could not be updated \(.*Connection refused.*\); the file above has everything, "
        "and `dit-lab doctor` sends it",
        trouble,
    )
    (late,) = read_metrics(untracked / "untold.jsonl")
    assert any(name.startswith("eval/two_sample") for name in late.metrics)
    assert done.err == ""
    assert time.monotonic() - started < 60  # seconds; mlflow alone would retry for minutes


# ---- refusals -----------------------------------------------------------------------------------


def test_a_damaged_evaluation_is_named(dit_lab: Command, untracked: Path) -> None:
    path, _ = only_evaluation(untracked)
    for content in (b"{", b"\xff\xfe", b"{}"):
        path.write_bytes(content)
        done = dit_lab("evaluate", f"run={untracked}")
        assert done.code == 2
        (line,) = done.err.splitlines()
        assert line.startswith(f"dit-lab: {path}: ")
        assert "move it away" in line


# ---- in many ways -------------------------------------------------------------------------------

WAYS = ["sampler.steps=1,2", "guidance.scale=1,2", "sample.weights=ema,raw"]


@pytest.fixture(scope="module")
def many(straight: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    """The run measured in eight ways, in a copy of its folder."""
    copy = tmp_path_factory.mktemp("many") / "straight"
    shutil.copytree(straight.root, copy)
    run = only_run(copy)
    config = run / "config.yaml"
    config.write_text(config.read_text().replace(str(straight.root), str(copy)))
    store = f"tracking.uri=sqlite:///{copy}/outputs/mlflow.db"  # which says where artifacts lie
    return run, typed(copy, "evaluate", "-m", f"run={run}", "metric=[memorisation]", store, *WAYS)


def test_every_way_is_measured_and_reported(many: tuple[Path, Done]) -> None:
    run, done = many
    assert done.code == 0, done.err
    measured = [read_evaluation(path) for path in run.glob("evaluations/*.json")]
    ways = {
        (one.card.sampler["steps"], one.card.guidance["scale"], one.card.weights)
        for one in measured
        if list(one.card.metrics) == ["memorisation"]
    }
    assert ways == {(s, g, w) for s in (1, 2) for g in (1.0, 2.0) for w in ("ema-0.9", "model")}
    (report,) = run.glob("reports/*/report.md")
    text = report.read_text()
    assert "eval/exact_copies_bytes_n120" in text  # the distance ratio is best in the middle
    assert "eval/loss (lower is better)" not in text
    rows = [line for line in text.splitlines() if line.startswith(("| 1 | ", "| 2 | "))]
    assert len(rows) >= 8
    assert (report.parent / "report.png").exists()


def test_every_way_is_a_child_in_mlflow(many: tuple[Path, Done]) -> None:
    run, _ = many
    parent = json.loads((run / "status.json").read_text())["tracking_run_id"]
    with sqlite3.connect(run.parents[2] / "mlflow.db") as store:
        query = "select run_uuid from tags where key = 'mlflow.parentRunId' and value = ?"
        children = [child for (child,) in store.execute(query, (parent,))]
        query = "select count(*) from metrics where run_uuid = ? and key like 'eval%'"
        counts = {store.execute(query, (child,)).fetchone()[0] for child in children}
        query = "select value from tags where key = 'mlflow.runName' and run_uuid = ?"
        names = {store.execute(query, (child,)).fetchone()[0] for child in children}
    assert len(children) == len(names) == 8
    assert all("sampler.steps=" in name for name in names)
    assert counts == {4}  # with the loss of the training


def test_what_was_measured_before_is_taken(many: tuple[Path, Done]) -> None:
    run, _ = many
    before = {path: path.read_bytes() for path in run.rglob("report.*")}
    done = typed(
        run.parents[3], "evaluate", "-m", f"run={run}", "metric=[memorisation]", *WAYS
    )  # fmt: skip
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert sum(line.endswith(": measured before") for line in lines) == 8
    assert not any("drawing" in line for line in lines)
    assert {path: path.read_bytes() for path in run.rglob("report.*")} == before


def test_no_way_but_one_needs_no_m(dit_lab: Command, straight: Run) -> None:
    for more, said in (
        ([], "-m: nothing is swept; give several values"),
        (["sampler.steps=1,x"], "sampler.steps=x: expected a whole number at least 1"),
    ):
        done = dit_lab("evaluate", "-m", f"run={only_run(straight.root)}", *more)
        assert done.code == 2
        assert done.err.startswith(f"dit-lab: {said}")


# ---- images in a folder -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty pictures without classes, twelve of them held out."""
    root = tmp_path_factory.mktemp("pictures")
    draw = np.random.default_rng(0)
    for number in range(60):
        pixels = draw.integers(0, 256, (4, 4, 3)).astype(np.uint8)
        Image.fromarray(pixels).resize((40, 40)).save(root / f"{number}.png")
    return root


def test_an_unconditional_run_on_files_that_have_moved(
    dit_lab: Command, tiny: list[str], images: Path, tmp_path: Path
) -> None:
    place = tmp_path / "pictures"
    shutil.copytree(images, place)
    kept = [text for text in tiny if not text.startswith("dataset=")]
    data = ["dataset=image_folder", f"dataset.root={place}", "dataset.image_size=40"]
    more = ["dataset.num_classes=0", "dataset.validation_share=0.2", "training.total_steps=2"]
    done = dit_lab("train", *kept, *data, *more, "tracking=none", "evaluation.num_images=30")
    assert done.code == 0, done.err
    run = only_run(tmp_path)
    path, evaluation = only_evaluation(run)
    assert evaluation.card.features == {"pixels": "32x32x3"}  # of 40 x 40
    assert evaluation.card.reference["levels"] == 256
    assert "class_accuracy" not in {row.metric for row in evaluation.rows}
    place.rename(tmp_path / "moved")
    done = dit_lab("evaluate", f"run={run}")
    assert done.code == 2
    assert str(place) in done.err
    moved = f"dataset.root={tmp_path / 'moved'}"
    done = dit_lab("evaluate", f"run={run}", moved)
    assert done.out.splitlines()[-1] == f"measured before: {path}"
    expected = path.read_bytes()
    path.unlink()
    assert dit_lab("evaluate", f"run={run}", moved).code == 0
    assert path.read_bytes() == expected
    (tmp_path / "moved/0.png").unlink()
    done = dit_lab("evaluate", f"run={run}", moved)
    assert done.code == 2
    assert "not the data that the run was trained on" in done.err


# ---- stops and kills ----------------------------------------------------------------------------


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def has(folder: Path, pattern: str) -> Callable[[], bool]:
    return lambda: any(folder.glob(f"outputs/runs/tiny/*/{pattern}"))


@pytest.mark.slow
def test_sigterm_in_the_evaluation_and_the_rerun_has_the_same_numbers(
    fork: Callable[..., Any],
    dit_lab: Command,
    straight: Run,
    training: list[str],
    tmp_path: Path,
) -> None:
    process = fork("train", *training, "tracking=none")
    wait_until(has(tmp_path, "samples/step-00000040.png"))  # what comes before
    process.send_signal(signal.SIGTERM)
    stopped = process.wait()
    assert stopped.returncode == 143
    assert "stopped and saved" in stopped.stdout
    assert stopped.stderr == ""
    run = only_run(tmp_path)
    status = json.loads((run / "status.json").read_text())
    assert (status["status"], status["step"]) == ("KILLED", 40)
    assert not (run / "evaluations").exists()
    done = dit_lab("train", *training, "tracking=none")
    assert done.code == 0, done.err
    assert json.loads((run / "status.json").read_text())["status"] == "FINISHED"
    ours, expected = only_evaluation(run)[0], only_evaluation(straight.folder)[0]
    assert ours.name == expected.name
    assert ours.read_bytes() == expected.read_bytes()
    assert table_of(done.out) == table_of(straight.out)
    assert logged(run) == logged(straight.folder)


def logged(run: Path) -> set[Point]:
    """Every value in metrics.jsonl that does not depend on the clock."""
    return {
        (key, row.step, value)
        for row in read_metrics(run / "metrics.jsonl")
        for key, value in row.metrics.items()
        if not key.startswith(("perf/", "system/"))
    }


@pytest.mark.slow
def test_killed_once_it_is_written_and_rerun_is_in_mlflow_once(
    store_in: Callable[[Path], None],
    fork: Callable[..., Any],
    dit_lab: Command,
    straight: Run,
    training: list[str],
    tmp_path: Path,
) -> None:
    """Killed between writing the file and marking the checkpoint as evaluated."""
    store_in(tmp_path)
    process = fork("train", *training, few_trees=True)
    wait_until(has(tmp_path, "evaluations/*.json"))
    process.kill()
    done = dit_lab("train", *training)
    assert done.code == 0, done.err
    path, evaluation = only_evaluation(only_run(tmp_path))
    assert path.read_bytes() == only_evaluation(straight.folder)[0].read_bytes()
    points = [point for point in tracked(tmp_path) if point[0] != "eval/loss"]
    assert sorted(points) == sorted(points_of(evaluation))
    (artifact,) = (tmp_path / "outputs/mlartifacts").rglob(path.name)
    assert artifact.read_bytes() == path.read_bytes()


@pytest.mark.slow
def test_the_command_can_be_stopped(fork: Callable[..., Any], untracked: Path) -> None:
    path, _ = only_evaluation(untracked)
    path.unlink()
    process = fork("evaluate", f"run={untracked}")
    drawing = "drawing 120 images from ema-0.9 at step 40\n"
    wait_until(lambda: drawing in process.printed())
    process.send_signal(signal.SIGTERM)
    stopped = process.wait()
    assert (stopped.returncode, stopped.stdout, stopped.stderr) == (143, drawing, "")
    assert list((untracked / "evaluations").iterdir()) == []
