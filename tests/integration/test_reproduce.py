"""Reproduction of a named experiment: it succeeds, and small defects are reported.

The quickstart's probes against four mutations of the package print their results: pytest -m slow
tests/integration/test_reproduce.py -s
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from dit_lab.runs.folder import read_json

ROOT = Path(__file__).resolve().parents[2]
RECIPE = """# question: does it come back?
defaults:
  - override /model: pico
  - override /patch: "4"
  - override /objective: rectified_flow
  - override /sampler: heun
  - override /dataset: digits
  - override /codec: identity
  - override /precision: fp32
  - override /metric: [memorisation]
model: {hidden_size: 16, depth: 1, num_heads: 2}
ema: {decays: [0.9]}
sampler: {steps: 2}
sample: {num_images: 4}
training: {total_steps: 60, global_batch_size: 8, log_every_steps: 20}
evaluation: {loss_images: 64, num_images: 90}
"""
OF_THE_SAMPLER = ["images", "evaluations", "times"]
PROBES = [
    "losses", "weights", "averages", "order", "dropped", "noise", "validation", "table", "lag",
    "horizon", *OF_THE_SAMPLER, "fixed", "sampled", "ddim", "guided", "stochastic",
]  # fmt: skip
METRICS = [
    "eval/loss", "eval/distance_ratio_pixels_n90", "eval/exact_copies_bytes_n90",
    "eval/near_copies_pixels_n90",
]  # fmt: skip

Fork = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def recorded(
    tmp_path_factory: pytest.TempPathFactory, forked_in: Fork, store_in: Callable[[Path], None]
) -> Path:
    """A folder with a tiny experiment and what was recorded of it by three seeds."""
    folder = tmp_path_factory.mktemp("recorded")
    (folder / "experiments/tiny").mkdir(parents=True)
    (folder / "experiments/tiny/recipe.yaml").write_text(RECIPE)
    store_in(folder)
    done = forked_in(folder, "reproduce", "tiny", "--record", "--seeds", "3")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "recorded: experiments/tiny/expected.yaml"
    return folder


@pytest.fixture
def lab(recorded: Path, tmp_path: Path) -> Path:
    """A copy of it, without its runs."""
    shutil.copytree(recorded / "experiments", tmp_path / "lab/experiments")
    return tmp_path / "lab"


def table_of(text: str) -> dict[str, list[str]]:
    """The table of verdicts: name -> the words after it."""
    lines = text.splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("number "))
    rows = (re.split(r"  +", line.strip()) for line in lines[start + 1 :])
    return {row[0]: row[1:] for row in rows if len(row) == 6}


def edited(lab: Path, change: Callable[[dict[str, Any]], object]) -> None:
    file = lab / "experiments/tiny/expected.yaml"
    content = yaml.safe_load(file.read_text())
    change(content)
    file.write_text(yaml.safe_dump(content))


@pytest.mark.slow
def test_what_is_recorded(recorded: Path) -> None:
    content = yaml.safe_load((recorded / "experiments/tiny/expected.yaml").read_text())
    ours = "one configuration"
    assert list(content["probes"][ours]) == PROBES
    assert list(content["measured"][ours]) == METRICS
    for metric in content["measured"][ours].values():
        assert len(metric["values"]) == 3
    assert content["measured"][ours]["eval/loss"]["deviation"] > 0
    assert content["recorded"]["seeds"] == [0, 1, 2]
    assert len(content["probes"][ours]["losses"]["value"]) == 50
    assert content["probes"][ours]["evaluations"]["value"] == 4.0  # two steps of Heun
    results = (recorded / "experiments/tiny/results.md").read_text()
    assert "seeds 0, 1, 2, 3 of 3 runs measured" in results
    for picture in [*re.findall(r"]\((.+?)\)", results), "samples.png"]:
        assert (recorded / "experiments/tiny" / picture).read_bytes().startswith(b"\x89PNG")
    assert 0 < content["probes"][ours]["dropped"]["value"] < 0.2


@pytest.mark.slow
def test_it_comes_back_in_a_new_folder(
    recorded: Path, forked_in: Fork, store_in: Callable[[Path], None], lab: Path
) -> None:
    store_in(lab)
    done = forked_in(lab, "reproduce", "tiny")
    assert done.returncode == 0, done.stdout + done.stderr
    found = table_of(done.stdout)
    assert list(found) == PROBES + METRICS
    assert {row[-1] for row in found.values()} == {"reproduced"}
    assert done.stdout.splitlines()[-2] == "reproduced"
    (verdict,) = lab.glob("outputs/reproductions/tiny-*/verdict.json")
    assert json.loads(verdict.read_text())["reproduced"] is True
    with sqlite3.connect(lab / "outputs/mlflow.db") as store:
        (value,) = store.execute("select value from metrics where key = 'reproduced'").fetchone()
    assert value == 1.0
    (kept,) = verdict.parent.glob("mlartifacts/**/verdict.json")
    assert kept.read_bytes() == verdict.read_bytes()


@pytest.mark.slow
def test_the_same_command_goes_on(recorded: Path, lab: Path) -> None:
    """A recording that is stopped after its first seed gives what an uninterrupted one gives."""
    (lab / "experiments/tiny/expected.yaml").unlink()
    command = [sys.executable, "-m", "dit_lab", "reproduce", "tiny", "--record", "--seeds", "3"]
    process = subprocess.Popen(
        command, cwd=lab, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not any(read_json(file)["status"] == "FINISHED" for file in statuses(lab)):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143, said
    assert "training is incomplete: " in said and "the same command resumes it" in said
    (first,) = [file for file in statuses(lab) if read_json(file)["status"] == "FINISHED"]
    before = first.stat().st_mtime_ns

    done = subprocess.run(command, cwd=lab, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = lab.glob("outputs/reproductions/tiny-*")
    assert f"resuming {folder}, which was interrupted" in done.stdout
    assert first.stat().st_mtime_ns == before  # was not trained again
    assert read_json(folder / "reproduction.json")["finished"]
    again, straight = (
        yaml.safe_load((place / "experiments/tiny/expected.yaml").read_text())
        for place in (lab, recorded)
    )
    assert again["measured"] == straight["measured"]
    assert again["probes"] == straight["probes"]


def statuses(lab: Path) -> list[Path]:
    return list(lab.glob("outputs/reproductions/tiny-*/runs/*/*/status.json"))


@pytest.mark.slow
def test_probes_alone_write_nothing(forked_in: Fork, lab: Path) -> None:
    done = forked_in(lab, "reproduce", "tiny", "--quick")
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(table_of(done.stdout)) == PROBES
    assert not (lab / "outputs").exists()


@pytest.mark.slow
def test_probes_are_those_of_one_seed(forked_in: Fork, lab: Path) -> None:
    """A reproduction by other seeds compares them all the same."""
    done = forked_in(lab, "reproduce", "tiny", "--quick", "seed=5,6")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "not as recorded: recipe" not in done.stdout


@pytest.mark.slow
def test_a_number_that_does_not_come_back_is_named(forked_in: Fork, lab: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        (probes,) = content["probes"].values()
        probes["losses"]["value"][20] += 0.1
        probes["evaluations"]["value"] = 6.0
        content["recorded"]["versions"]["torch"] = "1.0"

    edited(lab, change)
    done = forked_in(lab, "reproduce", "tiny", "--quick")
    assert done.returncode == 1
    found = table_of(done.stdout)
    wrong = [name for name, row in found.items() if row[-1] == "NOT reproduced"]
    assert wrong == ["losses", "evaluations"]
    assert found["losses"][0].startswith("#21: ")
    assert done.stdout.splitlines()[-1] == "not reproduced: losses, evaluations"
    assert "not as recorded: torch: 1.0, now " in done.stdout


@pytest.mark.slow
def test_another_recipe_is_named(forked_in: Fork, lab: Path) -> None:
    done = forked_in(lab, "reproduce", "tiny", "ema.decays=[0.99]", "--quick")
    assert done.returncode == 1
    assert "recipe of one configuration: differs from the recorded one" in done.stdout
    wrong = done.stdout.splitlines()[-1]
    assert wrong == "not reproduced: averages, validation, lag, horizon, sampled"


@pytest.mark.slow
def test_probes_that_came_later_are_added(forked_in: Fork, lab: Path) -> None:
    """To those that were recorded, where all of these come back; nothing else is touched."""
    file = lab / "experiments/tiny/expected.yaml"
    whole = yaml.safe_load(file.read_text())
    quick = ("reproduce", "tiny", "--quick")

    def forget(content: dict[str, Any]) -> None:
        (probes,) = content["probes"].values()
        del probes["table"], probes["fixed"]

    edited(lab, forget)
    done = forked_in(lab, *quick)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "not recorded: table, fixed; --quick --record adds them" in done.stdout
    assert table_of(done.stdout)["fixed"][-1] == "not recorded"
    before = file.read_bytes()
    edited(lab, lambda content: content["probes"]["one configuration"]["losses"].update(value=[2]))
    done = forked_in(lab, *quick, "--record")
    assert (done.returncode, "recorded: experiments" in done.stdout) == (1, False)
    file.write_bytes(before)
    done = forked_in(lab, *quick, "--record")
    assert done.stdout.splitlines()[-1] == "recorded: experiments/tiny/expected.yaml"
    content = yaml.safe_load(file.read_text())
    assert content["recorded"].pop("probes_added").keys() == {"table", "fixed"}
    assert content == whole
    assert list(content["probes"]["one configuration"]) == PROBES
    done = forked_in(lab, *quick, "--record")
    assert done.stdout.splitlines()[-1] == "all probes are recorded already; nothing was written"


@pytest.mark.slow
def test_a_grid_comes_back(forked_in: Fork, store_in: Callable[[Path], None], lab: Path) -> None:
    """Every configuration has its own numbers; those of one training are probed once."""
    recipe = lab / "experiments/grid/recipe.yaml"
    recipe.parent.mkdir()
    axes = "hydra: {mode: MULTIRUN, sweeper: {params: {sampler.steps: '2,3', seed: '0,1,2'}}}\n"
    recipe.write_text(RECIPE + axes)
    store_in(lab)
    done = forked_in(lab, "reproduce", "grid", "--record")
    assert done.returncode == 0, done.stdout + done.stderr
    content = yaml.safe_load((recipe.parent / "expected.yaml").read_text())
    two, three = "sampler.steps=2", "sampler.steps=3"
    assert list(content["probes"][two]) == PROBES
    assert list(content["probes"][three]) == OF_THE_SAMPLER
    assert content["measured"].keys() == {two, three}
    assert content["recorded"]["seeds"] == [0, 1, 2]
    with Image.open(recipe.parent / "samples.png") as sheet:
        assert sheet.width < sheet.height  # there is one model to see, in two ways

    done = forked_in(lab, "reproduce", "grid", "sampler.steps=3", "seed=0")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(f"probes of {three}") == 1 and two not in done.stdout

    content["probes"][three]["evaluations"]["value"] = 9.0
    (recipe.parent / "expected.yaml").write_text(yaml.safe_dump(content))
    done = forked_in(lab, "reproduce", "grid", "--seeds", "1")
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout.count(" NOT reproduced") == 1
    assert done.stdout.splitlines()[-2] == f"not reproduced: evaluations ({three})"


# ---- the quickstart, and four small mistakes -----------------------------------------------------

MUTATIONS = {
    "another decay of the average": (
        "build/training.py", "EMA(weights, decay=decay,", "EMA(weights, decay=0.99,", {"lag"},
    ),
    "label dropout off": (
        "build/parts.py",
        "class_dropout(config.model) if drops else 0.0",
        "0.0",
        {"order", "dropped"},
    ),
    "a step more on the sampler's grid": (
        "samplers/ode.py", "steps=steps", "steps=steps + 1", {"images", "evaluations", "times"},
    ),
    "the noise of the first batch reused": (
        "training/batches.py",
        'noise = self._normal("noise", indices)',
        'noise = self._normal("noise", indices % 128)',
        {"noise", "losses"},
    ),
}  # fmt: skip
"""What is wrong -> (file, text, what stands there instead, probes that must catch it)."""


def mutated(folder: Path, wrong: str) -> set[str]:
    """A copy of the package with one mistake in it; the probes that must catch it."""
    for part in ("dit_lab", "conf", "experiments"):
        shutil.copytree(ROOT / part, folder / part)
    file, before, after, expected = MUTATIONS[wrong]
    path = folder / "dit_lab" / file
    source = path.read_text()
    assert source.count(before) == 1, f"{file} has changed"
    path.write_text(source.replace(before, after))
    return expected


def quick(folder: Path) -> tuple[subprocess.CompletedProcess[str], float]:
    """`dit-lab reproduce quickstart --quick` by the package in a folder, and its seconds."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    environment.pop("OMP_NUM_THREADS", None)
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "dit_lab", "reproduce", "quickstart", "--quick"],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done, time.monotonic() - started


def test_the_quickstart_computes_what_was_recorded() -> None:
    """What changes a result, in code or recipe, has to be recorded anew."""
    done, _ = quick(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "not as recorded: recipe" not in done.stdout
    assert "not recorded" not in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("wrong", MUTATIONS)
def test_small_mistakes_are_caught_by_the_probes(wrong: str, tmp_path: Path) -> None:
    expected = mutated(tmp_path, wrong)
    done, seconds = quick(tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    verdict = done.stdout.splitlines()[-1]
    print(f"\n{wrong}: {verdict} ({seconds:.0f} s)")
    assert expected <= set(verdict.removeprefix("not reproduced: ").split(", "))
    assert seconds < 240  # a quarter of a minute where nothing else runs
