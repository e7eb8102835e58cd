"""LightningDiT's weights, imported by `dit-lab import`, against outputs of its original code.

The code is hustvl/LightningDiT at 2725fed, float32 on a CPU; noise is added to every tensor. Three
models: as released (RMSNorm, SwiGLU, rotary positions), the same with query and key norms, and one
of LayerNorm and GELU with both. Tolerances as in test_reference_dit.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

import dit_lab
from dit_lab.actions.export import Export
from dit_lab.actions.import_weights import import_weights
from dit_lab.build.trained import Trained
from dit_lab.config.compose import read_recorded
from dit_lab.core.types import Batch, Predict
from dit_lab.objectives.rectified_flow import RectifiedFlow
from dit_lab.runs.folder import RunFolder
from dit_lab.samplers.guidance import Guidance, predictor
from dit_lab.samplers.ode import Euler

REFERENCE = Path(__file__).parent / "reference" / "lightningdit_tiny.safetensors"
ONCE, LOOP = 1e-5, 1e-4
GUIDED = Guidance(scale=4.0, channels=3, interval=(0.125, 1.0))

Error = Callable[[Tensor, Tensor], float]
Reference = tuple[Trained, dict[str, Tensor]]


def opened(name: str) -> tuple[dict[str, Tensor], dict[str, bool | str | int]]:
    """The tensors of one of the three, and its options."""
    with safe_open(REFERENCE, "pt") as file:
        options = json.loads(file.metadata()["variants"])[name]
        tensors = {
            key.removeprefix(f"{name}."): file.get_tensor(key)
            for key in file.keys()  # noqa: SIM118
            if key.startswith(f"{name}.")
        }
    return tensors, options


def imported(name: str, folder: Path) -> Reference:
    tensors, options = opened(name)
    weights = {
        key.removeprefix("weights."): tensors.pop(key)
        for key in list(tensors)
        if key.startswith("weights.")
    }
    torch.save(weights, folder / "weights.pt")
    import_weights(
        folder / "weights.pt", folder / name, overrides=["codec=identity", "precision=fp32"]
    )
    trained = dit_lab.load(folder / name)
    found = asdict(read_recorded(RunFolder(folder / name)).model)
    assert {key: found[key] for key in options} == options
    return trained, tensors


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return imported("release", tmp_path_factory.mktemp("released"))


@torch.no_grad()
@pytest.mark.parametrize("name", ["release", "qk_norm", "layer_norm"])
def test_forward(tmp_path: Path, name: str, relative_error: Error) -> None:
    trained, tensors = imported(name, tmp_path)
    out = trained.model(tensors["forward.x"], tensors["forward.t"], tensors["forward.y"])
    assert relative_error(out, tensors["forward.out"]) < ONCE


@pytest.mark.parametrize("name", ["release", "qk_norm", "layer_norm"])
def test_there_and_back(tmp_path: Path, name: str) -> None:
    """Every tensor to the bit; the angles are computed anew, in float64."""
    imported(name, tmp_path)
    Export(str(tmp_path / name), root=tmp_path).to_original(tmp_path / "back.pt", "lightningdit")
    expected = torch.load(tmp_path / "weights.pt", weights_only=True)
    back = torch.load(tmp_path / "back.pt", weights_only=True)
    assert back.keys() == expected.keys()
    for key, tensor in expected.items():
        if key.startswith("feat_rope"):
            torch.testing.assert_close(back[key], tensor, rtol=0, atol=1e-6)
        else:
            assert back[key].equal(tensor)


@torch.no_grad()
def test_training_loss(released: Reference) -> None:
    """The squared error, and the loss of the direction."""
    trained, tensors = released
    labels = tensors["loss.y"]
    batch = Batch(
        sample_counter=torch.arange(3),
        data=tensors["loss.x_data"],
        labels=labels,
        noise=tensors["loss.x_noise"],
        time=tensors["loss.t"],
        drop_label=torch.zeros(3, dtype=torch.bool),
    )
    objective = RectifiedFlow(time_scale=1.0, direction_weight=1.0)
    terms = objective.loss(lambda x, time: trained.model(x, time, labels), batch)
    for name in ("mse", "direction"):
        torch.testing.assert_close(terms[name], tensors[f"loss.{name}"], rtol=1e-5, atol=0)


@torch.no_grad()
@pytest.mark.parametrize(("where", "t"), [("inside", 0.4), ("before", 0.1)])
def test_guidance(released: Reference, relative_error: Error, where: str, t: float) -> None:
    """Of three channels, from t = 0.125 on."""
    trained, tensors = released
    predict = velocity_predictor(trained, tensors["cfg.y"])
    found = predict(tensors["cfg.x"], t)
    velocity = trained.parts.objective.interpolant.velocity(found.data, found.noise, t)
    assert relative_error(velocity, tensors[f"cfg.{where}.out"]) < ONCE


def test_guided_samples(released: Reference, relative_error: Error) -> None:
    """10 Euler steps between its 11 times, shifted by 0.3: ours counts the other way round."""
    trained, tensors = released
    sampler = Euler(steps=10, time_grid="shifted", time_shift=1 / 0.3)
    out = sampler.sample(
        velocity_predictor(trained, tensors["cfg.y"]),
        tensors["cfg.x"],
        interpolant=trained.parts.objective.interpolant,
        draw_noise=lambda step: pytest.fail("an ODE sampler drew noise"),
    )
    assert relative_error(out, tensors["euler.out"]) < LOOP


def velocity_predictor(trained: Trained, labels: Tensor) -> Predict:
    return predictor(
        trained.model,
        trained.parts.objective,
        labels,
        null_label=trained.model.null_label,
        guidance=GUIDED,
    )
