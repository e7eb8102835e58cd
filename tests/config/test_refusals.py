"""Every request that cannot work: one line, exit code 2, no torch, nothing written."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Q = ["train", "experiment=quickstart"]
FLOW = "objective=rectified_flow"
DIGITS = ["dataset=digits", "codec=identity", "model=pico"]

# command -> what its one line must say
REFUSALS = {
    "no verb of that name": (["trian"], "trian: no such verb; allowed: train"),
    "unknown option": ([*Q, "--fast"], "--fast"),
    "unknown group": (["train", "modle=s"], "did you mean model=NAME?"),
    "unknown key": ([*Q, "training.totl_steps=3"], "did you mean training.total_steps?"),
    "unknown leaf": ([*Q, "lr=3"], "lr: no such key; did you mean optimizer.lr?"),
    "added key": ([*Q, "+training.speed=3"], "training.speed: no such key"),
    "wrong type": ([*Q, "training.total_steps=abc"], "total_steps=abc: expected a whole number"),
    "wrong enum": ([*Q, "objective.time_sampling=x"], "one of uniform, logit_normal"),
    "below range": ([*Q, "sampler.steps=0"], "sampler.steps=0: expected a whole number at least 1"),
    "not an override": ([*Q, "a b"], "a b: not understood"),
    "dangling interpolation": ([*Q, "name=${nothing}"], "name: cannot be resolved"),
    "unknown member": (["train", "model=xxl"], "model=xxl: no such choice; allowed: b, l, micro"),
    "unknown experiment": (["train", "experiment=quik"], "experiment=quik: no such choice"),
    "no such patch": ([*Q, "patch=3"], "patch=3: no such choice; allowed: 1, 2, 4, 8"),
    "patch against size": ([*Q, "model.patch_size=3"], "does not divide 8 x 8"),
    "heads against width": ([*Q, "model.num_heads=5"], "model.num_heads=5: does not divide"),
    "sampler against objective": (
        ["train", *DIGITS, FLOW, "sampler=ddpm"],
        "sampler=ddpm: does not fit objective=rectified_flow; allowed: auto, heun, euler, ",
    ),
    "steps without a stride": (
        ["train", *DIGITS, "sampler=ddim", "sampler.steps=333333"],
        "333333",
    ),
    "guidance without dropout": (
        [*Q, "guidance.scale=2", "model.class_dropout_prob=0"],
        "needs a model trained with model.class_dropout_prob > 0",
    ),
    "two conventions": ([*Q, "guidance.scale=2", "guidance.weight=1"], "give one of them"),
    "guidance interval": ([*Q, "guidance.interval=[0.5,0.2]"], "0 <= from < to <= 1"),
    "guidance channels": ([*Q, "guidance.channels=3"], "expected all or a count from 1 to 1"),
    "no such class": ([*Q, "sample.labels=[3,12]"], "12 is no class; allowed: 0 to 9"),
    "no such average": ([*Q, "sample.weights=ema:0.5"], "allowed: raw, ema, ema:0.999"),
    "declared classes": ([*Q, "dataset.num_classes=3"], "the data has 10 classes"),
    "batch not divisible": ([*Q, "training.accumulation=3"], "not divisible by"),
    "name that leaves the folder": ([*Q, "name=../x"], "name=../x: names a folder"),
    "missing data": (["train"], "train_labels.txt"),
    "missing autoencoder": ([*Q, "codec=vae"], "config.json"),
    "file store": (
        [*Q, "tracking.uri=file:runs"],
        "tracking.uri=file:runs: MLflow no longer keeps",
    ),
    "unknown store": ([*Q, "tracking.uri=ftp://x/y"], "unknown kind of store"),
    "untrusted target": ([*Q, "model._target_=os.system"], "not in a trusted module"),
    "sweep without -m": ([*Q, "seed=0,1"], "several values at once"),
    "no run": (["sample", "run=nowhere"], "run=nowhere: does not exist"),
    "run left out": (["sample"], "run: missing"),
    "folder that is no run": (["sample", "run=."], "run=.: has no config.yaml"),
    "misspelt resume": (
        [*Q, "resume=nevr"],
        "auto, never or force, and no run: does not exist; give a run folder",
    ),
    "forcing no run": (
        [*Q, "resume=force:nowhere"],
        "resume=force:nowhere: ",
    ),
    "run of a name that is none": (["evaluate", "run=nowhere"], "run=nowhere: does not exist"),
    "nothing to evaluate": (["evaluate"], "run: missing"),
    "ui without runs": (["ui"], "no such file; train something first"),
    "doctor without runs": (["doctor"], "holds no runs; give the folder that does"),
    "doctor with another key": (["doctor", "seed=1"], "seed=1: the doctor takes paths.root=FOLDER"),
}


def in_one_process(commands: list[list[str]], folder: Path) -> list[dict[str, object]]:
    """Run commands one after the other through `main`; what each printed and how it ended."""
    script = """
import contextlib, io, json, sys
from dit_lab.cli.main import main
ends = []
for arguments in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(arguments)
    slow = [n for n in ("torch", "mlflow", "sklearn", "diffusers", "numpy") if n in sys.modules]
    ends.append({"code": code, "out": out.getvalue(), "err": err.getvalue(), "slow": slow})
print(json.dumps(ends))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(commands)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    folder = tmp_path_factory.mktemp("refusals")
    results = in_one_process([arguments for arguments, _ in REFUSALS.values()], folder)
    assert list(folder.iterdir()) == []  # nothing half-written
    return dict(zip(REFUSALS, results, strict=True))


@pytest.mark.parametrize("case", REFUSALS)
def test_refused_in_one_line(case: str, ends: dict[str, dict[str, object]]) -> None:
    end, (_, expected) = ends[case], REFUSALS[case]
    assert end["code"] == 2, end
    assert end["out"] == ""
    (line,) = str(end["err"]).splitlines()
    assert line.startswith("dit-lab: ")
    assert expected in line
    assert "Traceback" not in line


def test_torch_is_never_imported(ends: dict[str, dict[str, object]]) -> None:
    for case, end in ends.items():
        assert not {"torch", "mlflow", "sklearn", "diffusers"} & set(end["slow"]), case


def test_missing_data_names_the_file_and_the_quickstart(
    ends: dict[str, dict[str, object]],
) -> None:
    line = str(ends["missing data"]["err"])
    assert "imagenet_dataset/train_labels.txt" in line
    assert "dit-lab train experiment=quickstart" in line


def test_guidance_on_an_unconditional_model(tmp_path: Path, labelled_folder: Path) -> None:
    arguments = [
        "train", "codec=identity", f"dataset.root={labelled_folder}", "dataset.image_size=8",
        "model=pico", "dataset.num_classes=0", "guidance.scale=2",
    ]  # fmt: skip
    (end,) = in_one_process([arguments], tmp_path)
    assert end["code"] == 2
    assert "the model is unconditional" in str(end["err"])


@pytest.fixture
def labelled_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    (root / "images").mkdir()
    for name in ("train_labels.txt", "val_labels.txt"):
        (root / name).write_text("a.png 0\n")
    return root


@pytest.mark.parametrize("place", ["a-file", "a-file/below"])
def test_output_folder_that_is_a_file(place: str, command: Callable, tmp_path: Path) -> None:
    (tmp_path / "a-file").write_text("")
    done = command(*Q, f"paths.root={place}")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "is a file; choose a folder" in done.stderr


def test_output_folder_without_the_right_to_write(command: Callable) -> None:
    done = command(*Q, "paths.root=/proc/dit-lab-outputs")  # where even root cannot write
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "paths.root=/proc/dit-lab-outputs: cannot write in /proc" in line


@pytest.mark.parametrize("key", ["training.compile", "sample.compile"])
def test_compiled_blocks_without_a_compiler(key: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dit_lab", *Q, f"{key}=true"],
        cwd=tmp_path, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith(f"dit-lab: {key}=true: torch.compile needs a C++ compiler")


def test_help_imports_nothing_slow(tmp_path: Path) -> None:
    code = (
        "import sys; from dit_lab.cli.main import main; main(['--help']); "
        "print([n for n in ('torch','hydra','omegaconf','rich','mlflow','numpy') "
        "if n in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stderr.strip() == "[]"
    verbs = ("train", "sample", "evaluate", "describe", "experiments", "ui", "doctor")
    for word in (*verbs, "quickstart", "rectified_flow"):
        assert word in done.stdout
