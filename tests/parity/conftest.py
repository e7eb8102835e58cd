"""Reference vectors computed with the original public implementations (see reference/README.md)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors import safe_open
from torch import Tensor

from dit_lab.models.dit import DiT

REFERENCE = Path(__file__).parent / "reference"
Reference = tuple[DiT, dict[str, Tensor]]


@pytest.fixture(scope="session")
def load_reference() -> Callable[[str], Reference]:
    """name -> (our DiT holding the original's weights, the other tensors)."""

    def load(name: str) -> Reference:
        with safe_open(REFERENCE / f"{name}.safetensors", "pt") as file:
            config = json.loads(file.metadata()["config"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        config["input_size"] = (config["input_size"], config["input_size"])
        model = DiT(**config).eval()
        weights = {
            key.removeprefix("weights."): tensors.pop(key)
            for key in list(tensors)
            if key.startswith("weights.")
        }
        model.load_state_dict(weights, strict=True)
        return model, tensors

    return load


@pytest.fixture(scope="session")
def relative_error() -> Callable[[Tensor, Tensor], float]:
    """(ours, theirs) -> largest difference over the root mean square of theirs."""

    def error(ours: Tensor, theirs: Tensor) -> float:
        assert ours.shape == theirs.shape
        return ((ours - theirs).abs().max() / theirs.square().mean().sqrt()).item()

    return error
