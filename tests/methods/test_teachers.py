"""Teachers of REPA: features on the grid of the model, and the identity of a folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from dit_lab.config.compose import compose_train
from dit_lab.config.identity import train_hash
from dit_lab.core.errors import RequestError
from dit_lab.evaluation.features.classifier import WIDTHS, Classifier, _Network
from dit_lab.evaluation.features.encoders import (
    classifier_encoder,
    folder_encoder,
    random_encoder,
)
from dit_lab.methods.options import CLASSIFIER_WIDTH, encoder_width

CPU = torch.device("cpu")
FLOW = ["dataset=digits", "codec=identity", "model=pico", "objective=rectified_flow"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small vision transformer of random weights, as transformers saves it."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.Dinov2Config(
        hidden_size=24, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
    )
    place = tmp_path_factory.mktemp("encoder")
    transformers.Dinov2Model(config).save_pretrained(place)
    return place


def images(side: int = 8, channels: int = 1) -> torch.Tensor:
    return torch.rand(5, channels, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_a_folder_gives_the_patches_of_the_published_way(folder: Path) -> None:
    """Resized to as many patches as tokens, normalised; the class token is left out."""
    from transformers import AutoModel

    found = folder_encoder(str(folder), grid=(4, 4), device=CPU)(images())
    network: Any = AutoModel.from_pretrained(folder)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = (images().expand(-1, 3, -1, -1) + 1) / 2
    pixels = torch.nn.functional.interpolate(pixels, (56, 56), mode="bicubic", antialias=True)
    with torch.no_grad():
        tokens = network((pixels - mean.reshape(3, 1, 1)) / std.reshape(3, 1, 1)).last_hidden_state
    assert tokens.shape == (5, 17, 24)
    torch.testing.assert_close(found, tokens[:, 1:])


def test_a_folder_may_say_how_pixels_are_scaled(folder: Path, tmp_path: Path) -> None:
    other = shutil.copytree(folder, tmp_path / "other")
    (other / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3})
    )
    plain, scaled = (
        folder_encoder(str(place), grid=(2, 2), device=CPU)(images()) for place in (folder, other)
    )
    assert not torch.allclose(plain, scaled)


def test_the_classifier_gives_its_last_map() -> None:
    network = _Network(1, 10)
    classifier = Classifier(network, fingerprint="x", device=CPU)
    found = classifier_encoder(classifier, grid=(2, 2))(images())
    assert found.shape == (5, 4, WIDTHS[-1]) == (5, 4, CLASSIFIER_WIDTH)
    with torch.no_grad():
        maps = network.trunk[:6](images())
    assert torch.equal(found[:, 1], maps[:, :, 0, 1])
    assert classifier_encoder(classifier, grid=(4, 4))(images()).shape == (5, 16, CLASSIFIER_WIDTH)


def test_random_weights_are_the_same_every_time() -> None:
    one, two = (random_encoder(3, 20, grid=(4, 4), device=CPU) for _ in range(2))
    found = one(images(16, 3))
    assert found.shape == (5, 16, 20)
    assert torch.equal(found, two(images(16, 3)))
    assert found.std() > 0.1


def test_the_hash_of_a_run_knows_the_encoder_and_not_its_place(
    folder: Path, tmp_path: Path
) -> None:
    moved = shutil.copytree(folder, tmp_path / "moved")

    def hashed(place: Path) -> str:
        return train_hash(compose_train([*FLOW, "method=[repa]", f"method.repa.teacher={place}"]))

    assert hashed(moved) == hashed(folder)
    weights = moved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x07")
    assert hashed(moved) != hashed(folder)


def test_the_width_of_a_teacher_is_known_without_it(folder: Path, tmp_path: Path) -> None:
    assert encoder_width(str(folder), 64) == 24
    assert encoder_width("random", 5) == 5
    with pytest.raises(
        RequestError, match=r"teacher=.*: holds no encoder; give classifier, random"
    ):
        encoder_width(str(tmp_path), 64)
