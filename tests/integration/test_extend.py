"""docs/extend.md is correct: its files are written, its commands run, its output compared.

A user-defined part is found, selected, trained, killed, resumed, sampled and refused as printed.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest
import torch
import yaml
from omegaconf import OmegaConf

import dit_lab
from dit_lab.config.compatibility import ANY_PATH, SAMPLERS, samplers_for
from dit_lab.config.contracts import check_contract
from dit_lab.config.signature import component_schema
from dit_lab.core.errors import RequestError
from dit_lab.core.interpolants import Linear
from dit_lab.core.options import option
from dit_lab.core.types import Batch, ModelCall, Prediction, Progress
from dit_lab.objectives.ddpm import DDPM
from dit_lab.objectives.rectified_flow import RectifiedFlow

Command = Callable[..., "subprocess.CompletedProcess[str]"]
Fork = Callable[..., Any]
Later = tuple[Path, dict[str, "subprocess.CompletedProcess[str]"]]

PAGE = (Path(__file__).resolve().parents[2] / "docs/extend.md").read_text(encoding="utf-8")
MARKED = re.findall(r"<!-- (file|run): (\S+) -->\n```\w+\n(.*?)```", PAGE, flags=re.DOTALL)
FILES = {name: text for kind, name, text in MARKED if kind == "file"}
TYPED = {
    name: shlex.split(text.replace("\\\n", ""))[1:] for kind, name, text in MARKED if kind == "run"
}
(REFUSED,) = re.findall(r"<!-- refused -->\n```\n(.*?)```", PAGE, flags=re.DOTALL)
CHOSEN_BY_THE_PAGE = (
    "objective=", "sampler=", "dataset=", "codec=", "name=", "model=", "patch=", "schedule=",
    "optimizer=",
)  # fmt: skip


@pytest.fixture(scope="module")
def sizes(tiny: list[str]) -> list[str]:
    """What makes the page's trainings take seconds."""
    return ["tracking=none", *(text for text in tiny if not text.startswith(CHOSEN_BY_THE_PAGE))]


@pytest.fixture(scope="module")
def train(sizes: list[str]) -> list[str]:
    """The page's training; the bound is left to the constructor by the page's yaml."""
    return [*TYPED["train"], *sizes, "objective.smallest_noise=0.1"]


@pytest.fixture(scope="module")
def straight(
    tmp_path_factory: pytest.TempPathFactory, command_in: Command, train: list[str]
) -> Path:
    """The folder with the page's files, in which its training was typed and not disturbed."""
    folder = tmp_path_factory.mktemp("user")
    write_files(folder)
    done = command_in(folder, *train)
    assert done.returncode == 0, done.stderr
    return folder


def write_files(folder: Path) -> None:
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


def run_in(folder: Path, name: str = "mine") -> Path:
    (found,) = folder.glob(f"outputs/runs/{name}/*")
    return found


def for_run(arguments: list[str], folder: Path) -> list[str]:
    """The page's arguments with the run's real name."""
    return [text.replace("HASH", run_in(folder).name) for text in arguments]


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of a refused command."""
    assert done.returncode == 2, done.stdout + done.stderr
    (line,) = done.stderr.splitlines()
    return line


def final_files(folder: Path, name: str = "mine") -> dict[str, bytes]:
    """Everything that the run's last checkpoint holds, and its last picture."""
    run = run_in(folder, name)
    last = max((run / "checkpoints").glob("step-*"))
    files = {str(p.relative_to(last)): p.read_bytes() for p in last.rglob("*") if p.is_file()}
    return {**files, "picture": max((run / "samples").glob("*.png")).read_bytes()}


def test_the_flow_with_an_absolute_error() -> None:
    found: dict[str, Any] = {}
    exec(compile(FILES["mylab/l1.py"], "l1.py", "exec"), found)
    data, noise = torch.randn(2, 3, 1, 8, 8)
    zeros = torch.zeros(3, dtype=torch.int64)
    batch = Batch(zeros, data, zeros, noise, torch.rand(3), zeros.bool())
    loss = found["L1Flow"]().loss(lambda x, time: torch.zeros_like(x), batch)["loss"]
    torch.testing.assert_close(loss, (data - noise).abs().mean((1, 2, 3)))


def test_the_objective_of_two_times() -> None:
    """With a model that predicts 0 everywhere, the target is half of the velocity."""
    found: dict[str, Any] = {}
    exec(compile(FILES["mylab/halves.py"], "halves.py", "exec"), found)
    data, noise = torch.randn(2, 3, 1, 8, 8)
    zeros, time = torch.zeros(3, dtype=torch.int64), torch.rand(3)
    asked: list[Any] = []

    def model(x: Any, time: Any, labels: Any, to: Any = None) -> Any:
        asked.append((time, to))
        return torch.zeros_like(x)

    predict = ModelCall(model=model, labels=zeros, progress=Progress())
    halves = found["Halves"]()
    share = torch.rand(3, dtype=torch.float64)
    batch = Batch(zeros, data, zeros, noise, time, zeros.bool(), halves.draws(lambda name: share))
    loss = halves.loss(predict, batch)["loss"]
    torch.testing.assert_close(loss, ((data - noise) / 2).square().mean((1, 2, 3)))
    later = 1000 * (time + (1 - time) * share.float())
    torch.testing.assert_close(asked[0], (1000 * time, later))
    assert asked[1][1] is None
    check_contract("objective", "mylab.halves.Halves", found["Halves"])


# ---- the life of an objective -------------------------------------------------------------------


def test_the_run_records_every_option_and_the_source(straight: Path) -> None:
    run = run_in(straight)
    assert yaml.safe_load((run / "config.yaml").read_text())["objective"] == {
        "_target_": "mylab.objectives.DataPrediction",
        "error_of": "velocity",
        "smallest_noise": 0.1,
        "time_sampling": "uniform",  # by the quickstart's recipe
    }
    logged = [json.loads(line)["metrics"] for line in (run / "metrics.jsonl").open()]
    assert {"train/data_error", "eval/data_error"} <= {name for row in logged for name in row}
    assert "mylab/objectives.py" in (run / "identity.json").read_text()


@pytest.mark.slow
def test_killed_and_rerun_ends_in_the_same_bits(
    straight: Path, fork: Fork, forked: Command, train: list[str], tmp_path: Path
) -> None:
    write_files(tmp_path)
    process = fork(*train)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("outputs/runs/mine/*/checkpoints/step-00000010/COMPLETE")):
        assert process.returncode is None, process.wait()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    assert not list(tmp_path.glob("outputs/runs/mine/*/checkpoints/step-00000040"))
    done = forked(*train)
    assert done.returncode == 0, done.stderr
    assert final_files(tmp_path) == final_files(straight)


def test_it_is_sampled_by_those_who_trust_it(straight: Path, forked_in: Command) -> None:
    arguments = for_run(TYPED["sample"], straight)
    done = forked_in(straight, *arguments)
    assert done.returncode == 0, done.stderr
    assert (straight / "mine.png").exists()
    # what the run recorded as trusted is no word of whoever samples it
    untrusting = [text for text in arguments if not text.startswith("trusted_modules")]
    assert "trusted_modules" not in (run_in(straight) / "config.yaml").read_text()
    assert "add trusted_modules=[mylab]" in refusal(forked_in(straight, *untrusting))


def test_it_is_measured_by_those_who_trust_it(straight: Path, forked_in: Command) -> None:
    arguments = for_run(TYPED["evaluate"], straight)
    done = forked_in(straight, *arguments, "evaluation.num_images=120", few_trees=True)
    assert done.returncode == 0, done.stderr
    assert "two_sample" in done.stdout
    (written,) = (run_in(straight) / "evaluations").iterdir()
    card = json.loads(written.read_text())["card"]
    assert card["objective"]["_target_"] == "mylab.objectives.DataPrediction"
    untrusting = [text for text in arguments if not text.startswith("trusted_modules")]
    assert "add trusted_modules=[mylab]" in refusal(forked_in(straight, *untrusting))


def test_a_metric_of_ones_own_is_a_line_of_the_table(forked_in: Command, straight: Path) -> None:
    arguments = for_run(TYPED["metric"], straight)
    done = forked_in(straight, *arguments, "evaluation.num_images=120", few_trees=True)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    rows = [line for line in lines if line[:1] == ["brightness"]]
    assert [row[1:3] for row in rows] == [
        ["training", "120"], ["training", "40"], ["held-out", "40"],
    ]  # fmt: skip
    # held-out digits are not 3% brighter than those of training, of 255 levels
    assert all(abs(float(row[-3])) < 0.03 for row in rows[1:])


# ---- a sampler and a dataset --------------------------------------------------------------------


def write_images(folder: Path) -> np.ndarray:
    """537 digits from 0 to 2, the last 137 for validation; the images uint8 (N, 8, 8, 1)."""
    from sklearn.datasets import load_digits

    folder.mkdir()
    digits = load_digits(n_class=3)
    images = (digits.images * 15).astype(np.uint8)[..., None]
    np.savez(folder / "train.npz", arr_0=images[:400], arr_1=digits.target[:400])
    np.savez(folder / "validation.npz", arr_0=images[400:], arr_1=digits.target[400:])
    return images


@pytest.fixture(scope="module")
def everything(straight: Path, forked_in: Command, train_dataset: list[str]) -> Path:
    """The same folder when the rest of the page was typed as well."""
    write_images(straight / "my_images")
    short = ["sampler.steps=2", "sample.weights=raw"]
    draw = [
        [*for_run(TYPED[name], straight), *short, f"out={name}.npz"]
        for name in ("sample", "sampler")
    ]
    for arguments in (*draw, train_dataset):
        done = forked_in(straight, *arguments)
        assert done.returncode == 0, done.stderr
    return straight


OTHERS = ("model", "method", "optimizer", "codec", "hook", "tracker")
"""The page's other trainings, each with the name of its run."""


@pytest.fixture(scope="module")
def others(straight: Path, forked_in: Command, sizes: list[str]) -> Path:
    """The same folder when those were typed, of few steps."""
    short = ["training.total_steps=10", "training.validate_every_steps=5"]
    for name in OTHERS:
        done = forked_in(straight, *TYPED[name], *sizes, *short)
        assert done.returncode == 0, done.stderr
    return straight


@pytest.fixture(scope="module")
def train_dataset(sizes: list[str]) -> list[str]:
    return [*TYPED["dataset"], *sizes, "training.total_steps=4"]


def test_the_sampler_draws_other_images(everything: Path) -> None:
    euler, ralston = (
        np.load(everything / f"{name}.npz")["arr_0"] for name in ("sample", "sampler")
    )
    assert euler.shape == ralston.shape
    assert (euler != ralston).any()


def test_the_dataset_is_trained_on(everything: Path) -> None:
    facts = json.loads((run_in(everything, "arrays") / "identity.json").read_text())["data"]
    counts = ("num_classes", "train_images", "validation_images", "channels", "height", "width")
    assert [facts[name] for name in counts] == [3, 400, 137, 1, 8, 8]


# ---- a model, an optimizer, a schedule, a codec, hooks ------------------------------------------


def recorded(folder: Path, name: str) -> dict[str, Any]:
    return yaml.safe_load((run_in(folder, name) / "config.yaml").read_text())


def logged(folder: Path, name: str, metric: str) -> dict[int, float]:
    """Step -> value, as the lab's own file has it."""
    rows = [json.loads(line) for line in (run_in(folder, name) / "metrics.jsonl").open()]
    return {row["step"]: row["metrics"][metric] for row in rows if metric in row["metrics"]}


def test_the_model_is_trained_and_has_no_patches(others: Path, forked_in: Command) -> None:
    config = recorded(others, "convnet")
    assert config["model"] == {
        "_target_": "mylab.models.ConvNet", "width": 32, "depth": 1, "class_dropout_prob": 0.1
    }  # fmt: skip
    assert "patch" not in config["choices"]
    assert logged(others, "convnet", "eval/loss").keys() == {5, 10}
    draw = [*for_run(TYPED["sample"], others), "guidance.scale=2", "sampler.steps=2", "out=c.npz"]
    run = [f"run={run_in(others, 'convnet')}" if text.startswith("run=") else text for text in draw]
    done = forked_in(others, *run)
    assert done.returncode == 0, done.stderr
    assert np.load(others / "c.npz")["arr_0"].shape[1:] == (8, 8, 1)


def test_the_model_is_described_by_its_parameters(straight: Path, forked_in: Command) -> None:
    done = forked_in(straight, *TYPED["describe"])
    assert done.returncode == 0, done.stderr
    said = dict(
        re.split(r"\s{2,}", line.strip(), maxsplit=1) for line in done.stdout.splitlines()[:10]
    )
    # of width 32 and depth 4: 3 x 3 convolutions with biases, eleven labels
    counts = {"label": 11 * 32, "enter": 9 * 32 + 32, "blocks": 4 * (9 * 32 * 32 + 32),
              "leave": 9 * 32 + 1, "(outside of modules)": 16}  # fmt: skip
    assert {name: said[name].replace(",", "") for name in counts} == {
        name: str(count) for name, count in counts.items()
    }
    assert (
        said["parameters"] == f"{sum(counts.values()):,} ({sum(counts.values()) - 16:,} trainable)"
    )
    assert "not counted" in done.stdout
    assert "FLOP" not in done.stdout.partition("not counted")[0]


def test_the_method_adds_its_terms(others: Path) -> None:
    """Beside a method of the package, in the same training."""
    config = recorded(others, "small")
    assert config["method"]["small_tokens"] == {
        "_target_": "mylab.methods.SmallTokens", "weight": 0.01, "block": None
    }  # fmt: skip
    parts = ("objective", "small_tokens/loss", "internal_guidance/loss")
    terms = [logged(others, "small", f"train/{part}")[10] for part in parts]
    assert terms[1] > 0 and terms[2] > 0
    assert logged(others, "small", "train/loss")[10] == pytest.approx(sum(terms), rel=1e-6)
    sizes = logged(others, "small", "train/small_tokens/size")
    assert terms[1] == pytest.approx(0.01 * sizes[10], rel=1e-6)


def test_the_optimizer_and_the_schedule_are_used(others: Path) -> None:
    config = recorded(others, "signum")
    assert config["optimizer"] == {
        "_target_": "mylab.optimizers.Signum", "lr": 3e-4, "beta": 0.9, "groups": []
    }  # fmt: skip
    rates = logged(others, "signum", "train/lr")
    assert rates == {step: pytest.approx(3e-4 * step / 50) for step in (5, 10)}
    last = run_in(others, "signum") / "checkpoints/step-00000010"
    assert any(
        "momentum" in file.read_bytes()[:100_000].decode("latin1")
        for file in last.rglob("*.safetensors")
    )


def test_the_codec_is_what_the_model_sees(others: Path) -> None:
    identity = json.loads((run_in(others, "fold") / "identity.json").read_text())
    assert identity["latent_shape"] == [4, 4, 4]
    assert identity["codec_fingerprint"] == "fold-2"
    assert {"mylab/__init__.py", "mylab/codecs.py"} <= identity["code_files"].keys()
    assert "mylab/objectives.py" not in identity["code_files"]  # decides nothing here


def test_the_hook_listens_and_changes_nothing(others: Path) -> None:
    config = recorded(others, "hooked")
    assert config["hook"] == {"lowest": {"_target_": "mylab.hooks.Lowest", "name": "train/loss"}}
    losses = logged(others, "hooked", "train/loss")
    assert float((run_in(others, "hooked") / "lowest.txt").read_text()) == min(losses.values())
    assert run_in(others, "hooked").name == run_in(others, "tracked").name  # one hash
    files = [final_files(others, name) for name in ("hooked", "tracked")]
    assert files[0] == files[1]
    assert not any(
        name.startswith("mylab")
        for name in json.loads((run_in(others, "hooked") / "identity.json").read_text())[
            "code_files"
        ]
    )


def test_the_tracker_has_every_number(others: Path) -> None:
    rows = [line.split(",") for line in (others / "all_runs.csv").read_text().splitlines()]
    assert {row[0] for row in rows} == {"tracked"}
    assert rows[-1][1:] == ["10", "status", "FINISHED"]
    losses = {int(step): float(value) for _, step, name, value in rows if name == "train/loss"}
    assert losses == logged(others, "tracked", "train/loss")
    assert {int(step) for _, step, name, _ in rows if name == "eval/loss"} == {5, 10}


@pytest.mark.extra
def test_tensorboard_has_every_number_and_grid(
    straight: Path, forked_in: Command, sizes: list[str]
) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    short = ["training.total_steps=10", "training.validate_every_steps=5"]
    done = forked_in(straight, *TYPED["tensorboard"], *sizes, *short)
    assert done.returncode == 0, done.stderr
    run = run_in(straight, "boarded")
    found = events.EventAccumulator(str(run / "tensorboard")).Reload()
    for name in ("train/loss", "eval/loss"):
        losses = logged(straight, "boarded", name)
        shown = {point.step: point.value for point in found.Scalars(name)}
        assert shown == {step: pytest.approx(value) for step, value in losses.items()}
    grids = {int(file.stem.removeprefix("step-")) for file in (run / "samples").glob("*.png")}
    assert {image.step for image in found.Images("samples")} == grids


FAILS = """
from dit_lab.core.types import Hook

class Fails(Hook):
    def __init__(self, *, method: str, log: str = "fails.txt"):
        self.method, self.log = method, log

    def on_start(self, *, first_step, total_steps):
        if self.method == "on_start":
            raise ValueError("at the start")

    def on_step(self, step):
        if self.method == "on_step" and step == 3:
            raise ValueError("at step three")

    def on_end(self, *, status, step, error):
        with open(self.log, "a") as log:
            print(self.method, status, step, error is not None, file=log)
        if self.method == "on_end":
            raise ValueError("at the end")
"""


def test_a_hook_that_raises_loses_nothing(
    straight: Path, forked_in: Command, sizes: list[str], tmp_path: Path
) -> None:
    """Where all processes of a training have to save, too; without the hook it goes on."""
    write_files(tmp_path)
    (tmp_path / "mylab/fails.py").write_text(FAILS)
    (tmp_path / "conf/hook/fails.yaml").write_text("fails:\n  _target_: mylab.fails.Fails\n")
    base = ["train", "experiment=quickstart", "trusted_modules=[mylab]", *sizes]
    base += ["training.total_steps=5", "training.checkpoint_every_steps=0"]

    def typed(method: str, *more: str) -> subprocess.CompletedProcess[str]:
        hook = ["hook=[fails]", f"hook.fails.method={method}"] if method else []
        return forked_in(tmp_path, *base, *hook, *more)

    def checkpoints(name: str) -> list[str]:
        return sorted(p.name for p in run_in(tmp_path, name).glob("checkpoints/step-*"))

    straight_through = typed("", "name=whole")
    assert straight_through.returncode == 0
    several = ["distributed=ddp", "distributed.num_processes=2"]
    for name, more in (("one", []), ("two", several)):
        done = typed("on_step", f"name={name}", *more)
        assert done.returncode == 1, done.stdout
        log = run_in(tmp_path, name) / "train.log"
        said = [
            *done.stdout.splitlines(),
            *done.stderr.splitlines(),
        ]  # a worker's comes by another way
        assert (
            "dit-lab: failed: HookError: hook.fails: on_step raised ValueError: at step three "
            f"(traceback in {log})"
        ) in said
        assert "mylab/fails.py" in log.read_text()
        assert checkpoints(name) == ["step-00000003"]
        assert typed("", f"name={name}", *more).returncode == 0
    whole, one = (final_files(tmp_path, name) for name in ("whole", "one"))
    assert whole == one

    done = typed("on_start", "name=start")
    assert done.returncode == 1 and "hook.fails: on_start raised" in done.stderr
    assert checkpoints("start") == []
    done = typed("on_end", "name=end")
    assert done.returncode == 0
    assert "hook.fails: on_end raised ValueError: at the end" in done.stdout.splitlines()
    assert (tmp_path / "fails.txt").read_text().splitlines() == [
        "on_step FAILED 3 True", "on_step FAILED 3 True", "on_start FAILED 0 True",
        "on_end FINISHED 5 False",
    ]  # fmt: skip


def test_what_has_no_weights_yet_may_change(
    straight: Path, forked_in: Command, train: list[str], tmp_path: Path
) -> None:
    """An objective that failed at its first step is mended and goes on; once there is a
    checkpoint, what the objective does not import may change."""
    write_files(tmp_path)
    module = tmp_path / "mylab/objectives.py"
    written = module.read_text()
    module.write_text(written.replace("batch.data).square()", "batch.dato).square()"))
    short = [*train, "training.total_steps=2"]
    failed = forked_in(tmp_path, *short)
    assert failed.returncode == 1 and "dato" in failed.stderr
    module.write_text(written)
    done = forked_in(tmp_path, *short)
    assert done.returncode == 0, done.stderr
    assert json.loads((run_in(tmp_path) / "identity.json").read_text())["forced_over"] == []
    for name in ("metrics", "samplers", "hooks", "models"):
        (tmp_path / f"mylab/{name}.py").write_text("changed = 1\n")
    assert "already finished" in forked_in(tmp_path, *short).stdout
    (tmp_path / "mylab/__init__.py").write_text("changed = 1\n")  # runs with the objective
    assert "other source code (mylab/__init__.py changed)" in refusal(forked_in(tmp_path, *short))


# ---- refusals -----------------------------------------------------------------------------------

IN_THE_PAGE = dict(re.findall(r"\$ (.*)\n(.*)\n", REFUSED))
OBJECTIVES = {  # name -> source, what is said to `dit-lab train objective=NAME`
    "syntax": ("class Mine(:", "(SyntaxError: invalid syntax (syntax.py, line 1))"),
    "missing": ("import nowhere_at_all", "No module named 'nowhere_at_all', {file} line 1"),
    # nothing is wrong with these two but the sampler, or the data that is not there
    "first_ralston": (
        "from dit_lab.objectives.rectified_flow import RectifiedFlow\n"
        "class Mine(RectifiedFlow):\n samplers = ('ralston', 'euler')",
        "sampler=heun: does not fit objective=first_ralston; allowed: auto, ralston, euler",
    ),
    "short_chain": (
        "from dit_lab.objectives.ddpm import DDPM\n"
        "class Mine(DDPM):\n def __init__(self): super().__init__(num_timesteps=100)",
        "imagenet_dataset/train_labels.txt is missing",
    ),
}
OPTIONS = ["objective.error_of=data", "objective.smallest_noise=0.2"]


@pytest.fixture(scope="module")
def later(
    everything: Path,
    train: list[str],
    train_dataset: list[str],
    forked_in: Command,
    tmp_path_factory: pytest.TempPathFactory,
) -> Later:
    """A copy of the folder in which the objective has changed, and what is answered there."""
    folder = tmp_path_factory.mktemp("later")
    shutil.copytree(everything, folder, dirs_exist_ok=True)
    module = folder / "mylab/objectives.py"
    module.write_text(module.read_text().replace("square()", "abs()"))
    (folder / "experiments/own").mkdir(parents=True)
    (folder / "experiments/own/recipe.yaml").write_text(
        "defaults:\n  - override /objective: mine\n"
    )
    for name, (source, _) in OBJECTIVES.items():
        (folder / f"{name}.py").write_text(source)
        (folder / f"conf/objective/{name}.yaml").write_text(f"_target_: {name}.Mine\n")
    commands = {
        "changed source": train,
        "no data": [*train_dataset, "dataset.root=nowhere"],
        "declared classes": [*train_dataset, "dataset.num_classes=10"],
        "--cfg job": [
            "train",
            "--cfg",
            "job",
            "experiment=own",
            "trusted_modules=[mylab]",
            *OPTIONS,
        ],
        **{text: shlex.split(text)[1:] for text in IN_THE_PAGE},
        **{
            name: ["train", f"objective={name}", f"trusted_modules=[{name}]"] for name in OBJECTIVES
        },
    }
    commands["first_ralston"].append("sampler=heun")
    return folder, {name: forked_in(folder, *typed) for name, typed in commands.items()}


@pytest.mark.parametrize(
    ("case", "expected"),
    {
        "changed source": "other source code (mylab/objectives.py changed)",
        "no data": "nowhere/train.npz is missing: give its folder with dataset.root=FOLDER",
        "declared classes": "dataset.num_classes=10: the data has 3 classes",
        **{name: words for name, (_, words) in OBJECTIVES.items()},
    }.items(),
)
def test_refused_in_one_line(case: str, expected: str, later: Later) -> None:
    folder, ends = later
    assert expected.format(file=folder / f"{case}.py") in refusal(ends[case])


def test_refused_as_the_page_prints(later: Later) -> None:
    assert len(IN_THE_PAGE) == 5
    for text, line in IN_THE_PAGE.items():
        assert refusal(later[1][text]) == line


def test_cfg_job_shows_the_options_that_the_yaml_leaves_out(later: Later) -> None:
    shown = yaml.safe_load(later[1]["--cfg job"].stdout)
    assert shown["choices"]["sampler"] == "euler"  # the class says so
    assert shown["objective"] == {
        "_target_": "mylab.objectives.DataPrediction",
        "error_of": "data",
        "smallest_noise": 0.2,
        "time_sampling": "uniform",
    }


# ---- the page's code, used as a library ---------------------------------------------------------


def page_class(file: str, name: str) -> Any:
    namespace: dict[str, Any] = {}
    exec(compile(FILES[file], file, "exec"), namespace)
    return namespace[name]


def test_the_objective_is_rectified_flow_read_through_data() -> None:
    objective = page_class("mylab/objectives.py", "DataPrediction")(smallest_noise=0.05)
    draw = torch.Generator().manual_seed(0)
    data, noise, guess = torch.randn(3, 4, 1, 2, 2, generator=draw, dtype=torch.float64)
    time = torch.tensor([0.0, 0.3, 0.9, 0.99], dtype=torch.float64)
    zeros = torch.zeros(4, dtype=torch.int64)
    batch = Batch(zeros, data, zeros, noise, time, zeros.bool())
    terms = objective.loss(lambda x, _: guess, batch)

    def velocity(x: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        return (guess - x) / (1 - time).reshape(-1, 1, 1, 1)

    flow = RectifiedFlow().loss(velocity, batch)["loss"]
    # both read the network's output as float32
    torch.testing.assert_close(terms["loss"][:3], flow[:3], rtol=1e-5, atol=0)
    # past the bound the error counts 1 / 0.05^2 times, not 1 / 0.01^2 times
    torch.testing.assert_close(terms["loss"][3], flow[3] / 25, rtol=1e-5, atol=0)
    torch.testing.assert_close(terms["loss"][3], terms["data_error"][3] * 400)
    x = objective.interpolant.interpolate(data, noise, 0.3)
    ends = objective.prediction(data, x, 0.3)
    torch.testing.assert_close(ends.noise, noise)


def test_the_sampler_is_of_second_order() -> None:
    """For data N(0, 4) and noise N(0, 1) the path of every point is known: it ends doubled."""
    ralston = page_class("mylab/samplers.py", "Ralston")

    def predict(x: torch.Tensor, t: float) -> Prediction:
        variance = 4 * t**2 + (1 - t) ** 2
        return Prediction(data=4 * t / variance * x, noise=(1 - t) / variance * x)

    start = torch.ones(1, 1, 1, 1, dtype=torch.float64)

    def error(steps: int) -> float:
        end = ralston(steps=steps).sample(
            predict, start, interpolant=Linear(), draw_noise=lambda step: start
        )
        return abs(end.item() - 2)

    # at least 4, up to the next order, where that of an Euler step would be 2
    assert error(40) / error(80) > 3.9
    assert error(80) < 1e-4


def test_the_dataset_gives_what_lies_there(tmp_path: Path) -> None:
    arrays = page_class("mylab/datasets.py", "Arrays")
    images = write_images(tmp_path / "my_images")
    root = str(tmp_path / "my_images")
    pixels, labels = arrays(root=root, split="train").fetch(torch.tensor([7, 0]), None)
    assert (pixels.shape, pixels.dtype, labels.dtype) == ((2, 1, 8, 8), torch.float32, torch.int64)
    assert torch.equal(pixels[0, 0], torch.from_numpy(images[7, ..., 0]) / 127.5 - 1)
    assert labels[1] == 0  # the first digit
    before = arrays.facts(root=root).fingerprint
    with np.load(f"{root}/validation.npz") as stored:
        np.savez(f"{root}/validation.npz", arr_0=255 - stored["arr_0"], arr_1=stored["arr_1"])
    assert arrays.facts(root=root).fingerprint != before


# ---- what annotations mean ----------------------------------------------------------------------


class Typed:
    def __init__(
        self,
        *arguments: int,
        needed: int,
        either: int | str = "a",
        sizes: list[int] = [1, 2],  # noqa: B006
        pair: tuple[float, float | torch.Tensor] = (0.9, 0.99),
        share: Annotated[float, option(at_least=0)] | None = None,
        level: Literal[1, 2] | None = 1,
        kind: Annotated[Literal["a", "b"], "a note that says nothing here"] = "b",
        untyped=None,
        **options: int,
    ) -> None: ...


@dataclasses.dataclass
class Fields:
    share: Annotated[float, option(at_least=0, below=1)] = 0.5
    kind: Literal["a", "b"] = "a"


def test_annotations_make_a_schema() -> None:
    schema = component_schema("objective", "mylab.Typed", Typed)
    assert OmegaConf.to_container(OmegaConf.structured(schema)) == {
        "_target_": "???", "needed": "???", "either": "a", "sizes": [1, 2], "pair": [0.9, 0.99],
        "share": None, "level": 1, "kind": "b", "untyped": None,
    }  # fmt: skip
    limits = {field.name: dict(field.metadata) for field in dataclasses.fields(schema)}
    assert limits["share"] == {"at_least": 0}
    assert limits["level"] == {"choices": (1, 2)}
    assert limits["kind"] == {"choices": ("a", "b")}


def test_a_dataclass_works_the_same_way() -> None:
    schema = component_schema("objective", "mylab.Fields", Fields)
    limits = {field.name: dict(field.metadata) for field in dataclasses.fields(schema)}
    assert limits["share"] == {"at_least": 0, "below": 1}
    assert limits["kind"] == {"choices": ("a", "b")}


def test_a_users_dataset_has_what_every_dataset_has() -> None:
    def images(*, root: str, split: str, image_size: int = 8) -> None: ...

    schema = component_schema("dataset", "mylab.images", images)
    assert OmegaConf.to_container(OmegaConf.structured(schema)) == {
        "_target_": "???", "num_workers": 0, "num_classes": None, "image_size": 8, "root": "???"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("hint", "default"),
    [
        (Path, ...),  # would arrive as text
        (torch.Tensor | None, None),
        (list[Literal["a"]], ...),  # only whole values are checked
        (Literal["auto"] | float, ...),
        (Annotated[str, option(above=0)], ...),
        (int, "many"),
    ],
)
def test_annotations_that_no_key_can_be_checked_against(hint: Any, default: Any) -> None:
    def mine(*, size=default) -> None: ...

    mine.__annotations__["size"] = hint
    if default is ...:
        mine.__kwdefaults__ = None
    with pytest.raises(RequestError, match=r"^objective\.size: mylab\.mine says"):
        component_schema("objective", "mylab.mine", mine)


def test_every_optimizer_of_torch_has_a_schema() -> None:
    for name, kind in vars(torch.optim).items():
        if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer):
            component_schema("optimizer", f"torch.optim.{name}", kind)


class LearnsLikeDDPM(DDPM):
    pass


class OneName(DDPM):
    samplers = "euler"


def test_samplers_of_an_own_objective() -> None:
    ddpm = SAMPLERS["dit_lab.objectives.ddpm.DDPM"]
    assert samplers_for("mylab.Mine", lambda name: LearnsLikeDDPM) == ddpm
    assert samplers_for("mylab.mine", lambda name: lambda: None) == ANY_PATH
    with pytest.raises(RequestError, match="samplers = 'euler'; expected the names"):
        samplers_for("mylab.Mine", lambda name: OneName)


def test_signum_is_the_papers() -> None:
    """Two weights, by hand: each goes against the sign of its momentum."""
    signum = page_class("mylab/optimizers.py", "Signum")
    weight = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
    optimizer = signum([weight], lr=0.1, beta=0.5)
    for gradient in ([2.0, -2.0], [-8.0, 8.0], [7.0, 8.0]):
        weight.grad = torch.tensor(gradient)
        optimizer.step()
    # momentum after each step: (1, -1), (-3.5, 3.5), (1.75, 5.75)
    torch.testing.assert_close(weight.detach(), torch.tensor([0.9, 0.9]))


def test_the_schedule_warms_up_and_falls() -> None:
    schedule = page_class("mylab/schedules.py", "InverseSqrt")(warmup_steps=4)
    factors = [schedule.factor(step, 100) for step in (0, 3, 15)]
    assert factors == [0.25, 1.0, 0.5]


def test_the_codec_loses_nothing() -> None:
    codec = page_class("mylab/codecs.py", "Fold")()
    images = torch.randn(2, 3, 4, 6)
    latents = codec.encode(images, None)
    assert latents.shape[1:] == codec.latent_shape(3, 4, 6)
    assert torch.equal(codec.decode(latents), images)


def test_a_library_call_is_told_of_a_missing_list(straight: Path) -> None:
    with pytest.raises(RequestError, match=r"expected a list; write trusted_modules=\[mylab\]"):
        dit_lab.load(run_in(straight), trusted_modules="mylab")
