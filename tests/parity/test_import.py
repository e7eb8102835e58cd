"""Imported weights give the outputs of the original implementations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

import dit_lab
from dit_lab.actions.export import Export
from dit_lab.actions.import_weights import import_weights

REFERENCE = Path(__file__).parent / "reference"
ONCE = 1e-5  # as in test_reference_dit.py


@torch.no_grad()
@pytest.mark.parametrize("name", ["dit", "sit"])
def test_forward(
    tmp_path: Path, name: str, relative_error: Callable[[Tensor, Tensor], float]
) -> None:
    """From a file, from the run of it, and from its way through diffusers and back."""
    with safe_open(REFERENCE / f"{name}_tiny.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    weights = {
        key.removeprefix("weights."): tensor
        for key, tensor in tensors.items()
        if key.startswith("weights.")
    }
    torch.save(weights, tmp_path / f"{name}.pt")
    settings = ["model.num_heads=3", "codec=identity", "precision=fp32"]
    import_weights(tmp_path / f"{name}.pt", tmp_path / "run", overrides=settings)
    Export(str(tmp_path / "run"), root=tmp_path).to_diffusers(tmp_path / "folder")
    import_weights(tmp_path / "folder", tmp_path / "back", overrides=["codec=identity"])
    for run in ("run", "back"):
        trained = dit_lab.load(tmp_path / run)
        time = torch.tensor([trained.parts.objective.model_time(0.25)])
        assert time.item() == {"dit": 749.25, "sit": 0.25}[name]
        out = trained.model(tensors["forward.x"], tensors["forward.t"], tensors["forward.y"])
        theirs = tensors["forward.out"]
        assert relative_error(out[:, : theirs.shape[1]], theirs) < ONCE
