"""Exchange of weights: import, export, diffusers without the lab, and fine-tuning."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

import dit_lab
from dit_lab.actions.export import Export
from dit_lab.actions.import_weights import import_weights
from dit_lab.core.interpolants import Interpolant
from dit_lab.core.options import Component
from dit_lab.core.types import Sampler
from dit_lab.interop.architecture import inferred, shapes_of
from dit_lab.interop.formats import FORMATS
from dit_lab.samplers.ancestral import DDIMSampler
from dit_lab.samplers.guidance import Guidance, predictor
from dit_lab.samplers.ode import Euler
from tests.errors.starts import autoencoder
from tests.random_weights import random_weights

Forked = Callable[..., subprocess.CompletedProcess[str]]
LABELS = [0, 3, 7]


def small_weights(**changes: Any) -> dict[str, Tensor]:
    """Of a small DiT, for digits."""
    options = {
        "input_size": (8, 8), "patch_size": 2, "in_channels": 1, "hidden_size": 32, "depth": 2,
        "num_heads": 2, "num_classes": 10, "learn_sigma": True,
    }  # fmt: skip
    return random_weights(**options | changes)


def imported(folder: Path, name: str, *overrides: str, **changes: Any) -> Path:
    """A run with random weights, `name` telling the format."""
    file = folder / f"{name}.pt"
    torch.save(small_weights(**changes), file)
    settings = ["model.num_heads=2", "precision=fp32", "dataset=digits", *overrides]
    return import_weights(file, folder / name, overrides=settings).folder.root


# ---- in and out ---------------------------------------------------------------------------------


def test_a_training_script_s_file_becomes_a_run(tmp_path: Path, forked: Forked) -> None:
    """Both sets of weights are kept; what is drawn from the exported file is the same."""
    ema, model = small_weights(), {k: v + 0.01 for k, v in small_weights().items()}
    model["pos_embed"] = ema["pos_embed"]
    torch.save({"model": model, "ema": ema, "opt": {}, "args": {"model": "DiT-S/2"}},
               tmp_path / "0000500.pt")  # fmt: skip
    done = forked("import", "0000500.pt", "--out", "mine", "model.num_heads=2", "precision=fp32")
    assert done.returncode == 0, done.stderr
    rows = {line.split()[0]: line.split()[1] for line in done.stdout.splitlines() if "  " in line}
    assert rows["format"] == "dit" and rows["dataset.image_size"] == "8"
    assert rows["model.num_heads"] == "2" and rows["codec"] == "identity"
    options = ("sampler=ddim", "sampler.steps=3", "sample.num_images=3")
    assert forked("sample", "run=mine", "out=a.npz", *options).returncode == 0
    exported = forked("export", "mine", "mine.safetensors")
    assert "ema-0.9999 at step 500" in exported.stdout, exported.stderr
    assert forked("sample", "run=mine.safetensors", "out=b.npz", *options).returncode == 0
    first, second = (np.load(tmp_path / name)["arr_0"] for name in ("a.npz", "b.npz"))
    assert first.shape == (3, 8, 8, 1) and np.array_equal(first, second)
    for weights, tensors in (("raw", model), ("ema", ema)):
        loaded = dit_lab.load(tmp_path / "mine", weights=weights).model.state_dict()
        assert all(loaded[name].equal(tensors[name]) for name in tensors)


@pytest.mark.parametrize("name", ["DiT", "SiT"])
def test_to_the_original_and_back(tmp_path: Path, name: str) -> None:
    run = imported(tmp_path, name)
    Export(str(run), root=tmp_path).to_original(tmp_path / "back.pt", name.lower())
    Export(str(run), root=tmp_path).to_original(tmp_path / "back.safetensors", name.lower())
    expected = small_weights()
    for found in (
        torch.load(tmp_path / "back.pt", weights_only=True),
        load_file(tmp_path / "back.safetensors"),
    ):
        assert found.keys() == expected.keys()
        assert all(found[key].equal(expected[key]) for key in expected)


def test_the_exported_file_is_a_run(tmp_path: Path) -> None:
    """Its header says what the folder says; weights that it does not hold are refused."""
    run = imported(tmp_path, "SiT")
    Export(str(run), root=tmp_path).to_safetensors(tmp_path / "m.safetensors")
    first, second = (dit_lab.load(tmp_path / name) for name in ("SiT", "m.safetensors"))
    assert first.name == second.name
    assert first.parts.shapes == second.parts.shapes
    assert first.parts.config == second.parts.config
    assert second.parts.shapes.data.class_names == tuple("0123456789")
    with pytest.raises(ValueError, match=r"holds ema-0\.9999 alone"):
        dit_lab.load(tmp_path / "m.safetensors", weights="raw")


def test_imported_weights_are_measured_against_the_data_that_is_named(
    tmp_path: Path, forked: Forked
) -> None:
    """Nobody here has seen what they were trained on: only size and classes have to fit."""
    torch.save(small_weights(), tmp_path / "DiT.pt")
    settings = ["model.num_heads=2", "precision=fp32", "sampler.steps=2"]
    import_weights(tmp_path / "DiT.pt", tmp_path / "run", overrides=settings)
    ask = ("evaluate", "run=run", "evaluation.num_images=60")
    done = forked(*ask, "dataset=digits", few_trees=True)
    assert done.returncode == 0, done.stderr
    assert "written: " in done.stdout
    (card,) = (json.loads(file.read_text())["card"] for file in tmp_path.glob("run/evaluations/*"))
    assert (card["reference"]["training_images"], card["reference"]["levels"]) == (1437, 17)
    refused = forked(*ask, "dataset=image_folder", "dataset.root=photos", "dataset.image_size=8")
    assert refused.returncode == 2 and "photos" in refused.stderr


# ---- diffusers, which knows nothing of the lab --------------------------------------------------

WITHOUT_THE_LAB = """
import sys
sys.modules["dit_lab"] = None  # an import of it would fail
import torch
from diffusers import DiffusionPipeline
for folder in sys.argv[1:]:
    pipeline = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.load(f"{folder}.noise")
    drawn = {
        (scale, channels): pipeline(
            [0, 3, 7], guidance_scale=scale, guidance_channels=channels, num_inference_steps=20,
            latents=noise, output_type="latent",
        ).images
        for scale, channels in ((1.0, None), (2.5, None), (2.5, 1))
    }
    torch.save(drawn, f"{folder}.drawn")
    image = pipeline(["3"], generator=torch.Generator().manual_seed(0), num_inference_steps=2)
    assert image.images[0].size == (8, 8) and image.images[0].mode == "L"
"""

WAYS: dict[str, tuple[Sampler, list[str], dict[str, Any]]] = {
    "DiT": (DDIMSampler(steps=20, spacing="stride"), [], {}),
    "DiT-v": (
        DDIMSampler(steps=20, spacing="stride"),
        ["objective.prediction=v", "objective.beta_schedule=cosine"],
        {"learn_sigma": False},
    ),
    "SiT": (Euler(steps=20), [], {}),
    "SiT-flow": (
        Euler(steps=20),
        ["objective=flow_matching", "objective.time_scale=1000"],
        {"learn_sigma": False},
    ),
}


@pytest.mark.slow
def test_diffusers_draws_the_same(tmp_path: Path) -> None:
    """At the same noise, with guidance of all channels and of some, without the lab installed."""
    noise = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    for name, (_, overrides, changes) in WAYS.items():
        run = imported(tmp_path, name, *overrides, **changes)
        Export(str(run), root=tmp_path).to_diffusers(tmp_path / f"{name}-folder")
        torch.save(noise, tmp_path / f"{name}-folder.noise")
    folders = [str(tmp_path / f"{name}-folder") for name in WAYS]
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_THE_LAB, *folders],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for name, (sampler, _, _) in WAYS.items():
        trained = dit_lab.load(tmp_path / name)
        drawn = torch.load(tmp_path / f"{name}-folder.drawn", weights_only=True)
        for (scale, channels), theirs in drawn.items():
            predict = predictor(
                trained.labelled(trained.parts.config),
                trained.parts.objective,
                torch.tensor(LABELS),
                null_label=10,
                guidance=Guidance(scale=scale, channels=channels),
            )
            ours = _sampled(sampler, predict, noise, trained.parts.objective.interpolant)
            assert (ours - theirs).abs().max() < 1e-4 * max(1, ours.abs().max()), (name, scale)


@torch.no_grad()
def _sampled(sampler: Sampler, predict: Any, noise: Tensor, interpolant: Interpolant) -> Tensor:
    return sampler.sample(
        predict, noise, interpolant=interpolant, draw_noise=lambda step: torch.zeros_like(noise)
    )


def test_diffusers_and_back(tmp_path: Path) -> None:
    """Every tensor, what the weights mean, and the names of classes."""
    for name, (_, overrides, changes) in WAYS.items():
        run = imported(tmp_path, name, *overrides, **changes)
        Export(str(run), root=tmp_path).to_diffusers(tmp_path / f"{name}-folder")
        back = import_weights(tmp_path / f"{name}-folder", tmp_path / f"{name}-back").folder.root
        first, second = dit_lab.load(run), dit_lab.load(back)
        expected, found = first.model.state_dict(), second.model.state_dict()
        assert found.keys() == expected.keys()
        assert all(found[key].equal(expected[key]) for key in expected)
        told, meant = (asdict(of.parts.config.objective) for of in (second, first))
        assert told == {**meant, **({"sigma_min": 1e-4} if "sigma_min" in meant else {})}
        for fact in ("class_names", "levels", "num_classes", "channels", "height"):
            shapes = second.parts.shapes.data, first.parts.shapes.data
            assert getattr(shapes[0], fact) == getattr(shapes[1], fact)


def test_an_autoencoder_goes_along(tmp_path: Path) -> None:
    """The parts of the folder load with the classes of diffusers, and decode as the run's codec."""
    from diffusers import AutoencoderKL, DDIMScheduler, DiTTransformer2DModel

    from dit_lab.interop.pipeline import DiTLabPipeline

    autoencoder(tmp_path / "vae", seed=0)
    torch.save(small_weights(in_channels=4), tmp_path / "DiT.pt")
    settings = ["model.num_heads=2", f"codec.path={tmp_path / 'vae'}", "dataset.image_size=16"]
    run = import_weights(tmp_path / "DiT.pt", tmp_path / "run", overrides=settings).folder.root
    folder = tmp_path / "folder"
    Export(str(run), root=tmp_path).to_diffusers(folder)
    pipeline = DiTLabPipeline(
        transformer=DiTTransformer2DModel.from_pretrained(folder / "transformer"),
        scheduler=DDIMScheduler.from_pretrained(folder / "scheduler"),
        vae=AutoencoderKL.from_pretrained(folder / "vae"),
        lab=json.loads((folder / "model_index.json").read_text())["lab"],
    )
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    ours = dit_lab.load(run).parts.codec.decode(latents)
    with torch.no_grad():
        torch.testing.assert_close(pipeline._decoded(latents), ours, rtol=0, atol=1e-5)


def test_a_model_of_one_s_own_is_refused(tmp_path: Path) -> None:
    export = Export(str(imported(tmp_path, "DiT")), root=tmp_path)
    export.config = replace(export.config, model=Component("mylab.Model"))
    with pytest.raises(ValueError, match=r"--format dit: knows the lab's DiT alone, this is mylab"):
        export.to_original(tmp_path / "model.pt", "dit")


def test_repa_s_file_draws_what_sit_s_does(tmp_path: Path) -> None:
    """Its projectors are left out and named."""
    sit = imported(tmp_path, "SiT", learn_sigma=False)
    small = inferred(shapes_of(small_weights(learn_sigma=False)))
    theirs = dict(FORMATS["repa"].from_ours(small_weights(learn_sigma=False), small))
    torch.save({**theirs, "projectors.0.0.weight": torch.ones(2, 2)}, tmp_path / "last.pt")
    settings = ["model.num_heads=2", "precision=fp32", "dataset=digits"]
    made = import_weights(tmp_path / "last.pt", tmp_path / "REPA", overrides=settings)
    assert made.skipped == ["projectors.0.0.weight"]
    noise = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    drawn = []
    for run in (sit, made.folder.root):
        trained = dit_lab.load(run)
        predict = predictor(
            trained.labelled(trained.parts.config),
            trained.parts.objective,
            torch.tensor(LABELS),
            null_label=10,
            guidance=Guidance(),
        )
        interpolant = trained.parts.objective.interpolant
        drawn.append(_sampled(Euler(steps=10), predict, noise, interpolant))
    torch.testing.assert_close(drawn[0], drawn[1], rtol=0, atol=1e-4)


# ---- a new beginning ----------------------------------------------------------------------------

TRAIN = [
    "train", "model=pico", "objective=rectified_flow", "codec=identity", "precision=fp32",
    "tracking=none", "sampler.steps=2", "sample.num_images=4", "evaluation.num_images=0",
    "training.global_batch_size=64", "training.sample_every_steps=0",
    "evaluation.loss_images=64", "optimizer.lr=1e-3", "ema.decays=[0.5]",
]  # fmt: skip


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory, forked_in: Any) -> Path:
    """A folder with a short training on digits."""
    folder = tmp_path_factory.mktemp("digits")
    done = forked_in(folder, *TRAIN, "dataset=digits", "name=quickstart", "training.total_steps=80")
    assert done.returncode == 0, done.stderr
    return folder


def bars(folder: Path, side: int) -> None:
    """Three classes of pictures of digits, enlarged."""
    from sklearn.datasets import load_digits

    data = load_digits()
    for label in range(3):
        place = folder / f"photos-{side}" / f"class-{label}"
        place.mkdir(parents=True)
        for number, image in enumerate(data.images[data.target == label][:60]):
            picture = Image.fromarray((image * 15.9).astype("uint8"))
            picture.resize((side, side)).save(place / f"{number}.png")


@pytest.mark.slow
def test_other_classes_and_another_size(digits: Path, forked_in: Any) -> None:
    """What does not fit is told, one line each; and after some steps it knows more than a model
    that began with nothing."""
    bars(digits, 16)
    other = [
        *TRAIN, "dataset=image_folder", "dataset.root=photos-16", "dataset.image_size=16",
        "dataset.num_workers=0", "training.total_steps=12",
    ]  # fmt: skip
    tuned = forked_in(digits, *other, "name=tuned", "init_from=outputs/runs/quickstart")
    anew = forked_in(digits, *other, "name=anew")
    assert tuned.returncode == anew.returncode == 0, tuned.stderr + anew.stderr
    lines = tuned.stdout.splitlines()
    assert "47 tensors loaded, 4 resized, 1 skipped" in tuned.stdout
    told = sorted(line for line in lines if line.startswith(("resized: ", "skipped: ")))
    assert told == [
        "resized: final_layer.linear.bias (1 of 3 channels)",
        "resized: final_layer.linear.weight (1 of 3 channels)",
        "resized: pos_embed (computed for the new size)",
        "resized: x_embedder.proj.weight (1 of 3 channels)",
        "skipped: y_embedder.embedding_table.weight (the classes differ)",
    ]
    losses = [
        float(line.split()[-1])
        for done in (tuned, anew)
        for line in done.stdout.splitlines()
        if "eval/loss" in line and line.startswith("step 12")
    ]
    assert losses[0] < 0.9 * losses[1], losses
    again = forked_in(digits, *other, "name=tuned", "init_from=outputs/runs/quickstart")
    assert "already finished" in again.stdout


def test_an_exported_file_begins_a_training(digits: Path, forked_in: Any) -> None:
    """The same training as from the run itself; what the weights meant before is told."""
    run = next(digits.glob("outputs/runs/quickstart/*"))
    assert forked_in(digits, "export", str(run), "digits.safetensors").returncode == 0
    more = [*TRAIN, "dataset=digits", "training.total_steps=2"]
    ddpm = forked_in(digits, *more, "objective=ddpm", "name=ddpm", "init_from=digits.safetensors")
    assert "note: objective._target_=dit_lab.objectives.ddpm.DDPM differs from " in ddpm.stdout
    hashes = set()
    for name, source in (("file", "digits.safetensors"), ("run", str(run))):
        done = forked_in(digits, *more, f"name={name}", f"init_from={source}")
        assert "52 tensors loaded, 0 resized, 0 skipped" in done.stdout, done.stderr
        made = next(digits.glob(f"outputs/runs/{name}/*"))
        hashes.add((made.name, (made / "checkpoints/step-00000002/COMPLETE").read_text()))
    assert len({name for name, _ in hashes}) == 1
    weights = {text.partition('"model.safetensors"')[2][:100] for _, text in hashes}
    assert len(weights) == 1


def test_weights_alone_are_not_resumed(tmp_path: Path, forked: Forked) -> None:
    imported(tmp_path, "DiT")
    done = forked("train", "resume=DiT", "training.total_steps=500000")
    assert done.returncode == 2
    assert "has weights but no training state; init_from=" in done.stderr


# ---- as the documents say -----------------------------------------------------------------------


@pytest.mark.slow
def test_the_examples_of_the_library(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of the README and of docs/library.md, as they stand there."""
    root = Path(__file__).parents[2]
    texts = [(root / page).read_text(encoding="utf-8") for page in ("README.md", "docs/library.md")]
    blocks = [part.partition("```")[0] for text in texts for part in text.split("```python\n")[1:]]
    monkeypatch.chdir(digits)
    found: list[dict[str, Any]] = [{}, {}, {}]
    for block, names in zip(blocks, found, strict=True):
        exec(compile(block, "README.md", "exec"), names)
    for names in found[:2]:
        assert names["images"].shape == (3, 8, 8, 1)
        assert names["labels"].tolist() == [3, 1, 4]
    assert len(found[0]["table"]) == 1
    assert found[2]["terms"]["loss"].mean() < 1.2  # it begins at 1.4 or so
    assert found[2]["drawn"].shape == (10, 1, 8, 8) and found[2]["drawn"].isfinite().all()


# ---- MLflow -------------------------------------------------------------------------------------


def pixels(encoded: str) -> Any:
    """uint8 (H, W) of a PNG in base64."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))))


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory, forked_in: Any) -> Path:
    """A folder with an imported run, registered as the first version of `digits`."""
    folder = tmp_path_factory.mktemp("registered")
    imported(folder, "SiT", "tracking.experiment=imported", f"paths.root={folder / 'outputs'}")
    done = forked_in(folder, "export", "SiT", "digits", "--format", "mlflow", "--register")
    assert done.returncode == 0, done.stderr
    assert "registered ema-0.9999 at step 0: models:/digits/1" in done.stdout
    return folder


@pytest.mark.slow
def test_a_registered_model_draws_what_the_run_draws(
    registered: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No pickle is kept; a label that is none is refused in a word."""
    import mlflow
    import pandas as pd
    from mlflow.exceptions import MlflowException

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{registered}/outputs/mlflow.db")
    kept = [path.name for path in (registered / "outputs/mlartifacts").rglob("*")]
    assert "served_model.py" in kept and "weights.safetensors" in kept
    assert not [name for name in kept if name.endswith((".pkl", ".pickle", ".pt", ".bin"))]
    model = mlflow.pyfunc.load_model("models:/digits/1")
    table = pd.DataFrame({"label": [3, 1]})
    rows = model.predict(table, params={"seed": 5, "guidance_scale": 2.0})
    guidance = Guidance(scale=2.0)
    expected, _ = dit_lab.load(registered / "SiT").sample([3, 1], seed=5, guidance=guidance)
    assert [row["label"] for row in rows] == [3, 1]
    for row, image in zip(rows, expected.squeeze(-1).numpy(), strict=True):
        assert np.array_equal(pixels(row["image"]), image)
    with pytest.raises(MlflowException, match="label 10: no class; allowed: 0 to 9"):
        model.predict(pd.DataFrame({"label": [10]}))


@pytest.mark.slow
def test_mlflow_serves_it(registered: Path) -> None:
    """A real server on loopback and a real request."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    store = f"sqlite:///{registered}/outputs/mlflow.db"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    server = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/digits/1",
         "--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)],
        env={**os.environ, "MLFLOW_TRACKING_URI": store, "PATH": path},
        start_new_session=True,
    )  # fmt: skip
    try:
        wait_for(f"http://127.0.0.1:{port}/ping", server)
        body = {"dataframe_records": [{"label": 7}, {"label": 2}], "params": {"seed": 1}}
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/invocations",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            rows = json.load(answer)["predictions"]
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()
    expected, _ = dit_lab.load(registered / "SiT").sample([7, 2], seed=1)
    assert [row["label"] for row in rows] == [7, 2]
    for row, image in zip(rows, expected.squeeze(-1).numpy(), strict=True):
        assert np.array_equal(pixels(row["image"]), image)


def wait_for(address: str, server: subprocess.Popen[bytes]) -> None:
    """Until a server answers."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert server.poll() is None, "the server has ended"
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"{address} does not answer")
