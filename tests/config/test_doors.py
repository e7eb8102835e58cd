"""All commands report the same error for the same invalid request."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from dit_lab.cli.main import main

RUN = Path(__file__).resolve().parents[1] / "data/recorded_run/recorded/17e8b325db9c"
BASE = ["experiment=quickstart", "tracking=none"]

TRAINING = [
    "training.total_steps=0",
    "training.total_steps=abc",
    "training.globl_batch_size=8",
    "training.global_batch_size=7 training.accumulation=2",
    "training.keep_every_steps=10 training.keep_last=2 training.checkpoint_every_steps=3",
    "training.keep_every_steps=10 training.keep_last=null",
    "objective.time_samplng=uniform",
    "objective.time_sampling=normal",
    "objective.time_shift=fast",
    "objective=rectified",
    "objective=ddpm objective.prediction=noise objective.zero_terminal_snr=true",
    "objective=ddpm objective.rescale_bound=true objective.learn_sigma=false",
    "model.num_heads=3",
    "model.hidden_size=50",
    "model.rope=true model.hidden_size=60 model.num_heads=2",
    "model.activation_checkpointing=often",
    "patch=3",
    "model.patch_size=3",
    "optimizer.lr=0",
    "optimizer.betas=[0.9]",
    "ema.decays=[]",
    "ema.power_stds=[0.1]",
    "coupling=optimal_transport coupling.group_images=7",
    "coupling=optimal_transport objective=ddpm",
    "dataset.num_classes=3",
    "dataset=labelled_list dataset.root=nowhere",
    "init_from=nowhere",
    "resume=nowhere",
    "name=a/b",
    "tracking=mlflow tracking.uri=ftp://here",
    "trusted_modules=mylab",
    "model._target_=os.system",
    "distributed=ddp",
    "distributed.num_processes=auto",
    "distributed=fsdp distributed.num_processes=2 distributed.processes_per_copy=3",
]
DRAWING = [
    "sampler.steps=0",
    "sampler.step=5",
    "sampler=hoin",
    "sampler=ddpm",
    "sampler.time_grid=given",
    "sampler.time_shift=2",
    "sampler._target_=os.system",
    "guidance.scale=-1",
    "guidance.scale=2 guidance.weight=1",
    "guidance.interval=[0.5,0.2]",
    "guidance.channels=9",
    "guidance.weak_run=nowhere guidance.scale=2",
    "sample.weights=ema:0.5",
    "sample.labels=[12]",
    "sample.batch_size=0",
    "precision.mixed_precision=bf8",
]


@pytest.fixture(autouse=True)
def _in_a_folder_without_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    shutil.copytree(RUN, tmp_path / "outputs/runs/recorded/17e8b325db9c")


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the one-line error of a command, which must leave no files behind."""
    before = sorted(Path().rglob("*"))
    code = main(arguments)
    out, err = capsys.readouterr()
    assert (code, out) == (2, ""), (out, err)
    assert sorted(Path().rglob("*")) == before
    (line,) = err.splitlines()
    return line


@pytest.mark.parametrize("typed", [*TRAINING, *DRAWING])
def test_training_sweeping_and_describing_refuse_alike(
    typed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [*BASE, *typed.split(" ")]
    line = said(capsys, "train", *given)
    assert said(capsys, "train", "-m", "seed=0,1", *given) == line
    assert said(capsys, "describe", *given) == line


@pytest.mark.parametrize("typed", DRAWING)
def test_what_draws_from_a_run_refuses_alike(
    typed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = typed.split(" ")
    run = "run=outputs/runs/recorded/17e8b325db9c"
    line = said(capsys, "sample", run, "out=here.npz", *given)
    if not typed.startswith(("sample.labels", "sample.batch_size")):
        assert said(capsys, "evaluate", run, *given) == line
    pairs = [f"pairs.{one}" for one in given]
    assert said(capsys, "reflow", run, *pairs).replace("pairs.", "", 1) == line


def test_the_folder_of_a_run_is_asked_by_a_sweep_too(capsys: pytest.CaptureFixture[str]) -> None:
    """A sweep that cannot write its results is refused before the first job."""
    Path("file").touch()
    given = [*BASE, f"paths.root={os.path.abspath('file')}"]
    assert said(capsys, "train", "-m", "seed=0,1", *given) == said(capsys, "train", *given)
