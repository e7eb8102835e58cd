"""Frozen encoders that give a feature vector for each token of the model: teachers of REPA.

Shapes: N images of h x w pixels and c channels in [-1, 1], T = rows x columns tokens of the model,
Z features.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dit_lab.core import rng
from dit_lab.core.errors import RequestError
from dit_lab.evaluation.features.classifier import Classifier

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Normalisation of encoders whose folder does not say another."""

Encoder = Callable[[Tensor], Tensor]


def on_grid(features: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return features (N, Z, h', w') as vectors (N, T, Z) on a grid of rows x columns."""
    if features.shape[-2:] != grid:
        features = functional.interpolate(features, grid, mode="bilinear", antialias=True)
    return features.flatten(2).transpose(1, 2)


def random_encoder(
    channels: int, features: int, *, grid: tuple[int, int], device: torch.device
) -> Encoder:
    """Return two convolutions with fixed random weights: a teacher that knows nothing."""
    draw = rng.generator(0, "random encoder")
    layers = nn.Sequential(
        nn.Conv2d(channels, features, 3, padding=1), nn.GELU(), nn.Conv2d(features, features, 1)
    )
    with torch.no_grad():
        for weight in layers.parameters():
            fan = weight[0].numel() if weight.dim() > 1 else 1
            weight.normal_(std=fan**-0.5, generator=draw)
    layers.requires_grad_(False).to(device)

    def encode(images: Tensor) -> Tensor:
        return on_grid(functional.adaptive_avg_pool2d(layers(images), grid), grid)

    return encode


def classifier_encoder(classifier: Classifier, *, grid: tuple[int, int]) -> Encoder:
    """Return the convolutions of the lab's own classifier."""

    def encode(images: Tensor) -> Tensor:
        return on_grid(classifier.maps(images), grid)

    return encode


def folder_encoder(folder: str, *, grid: tuple[int, int], device: torch.device) -> Encoder:
    """Return the encoder that transformers saved in a folder, such as DINOv2.

    Images are resized so that the encoder has as many patches as the model has tokens. Raises
    RequestError.
    """
    try:
        from transformers import AutoModel
    except ImportError:
        raise RequestError(
            f"{folder}: the encoder needs transformers; pip install 'dit-lab[encoders]'"
        ) from None
    try:
        network: Any = AutoModel.from_pretrained(folder, local_files_only=True)
        patch = int(network.config.patch_size)
    except Exception as error:
        raise RequestError(f"{folder}: transformers cannot load the encoder ({error})") from None
    network = network.requires_grad_(False).eval().to(device)
    mean, std = (torch.tensor(part, device=device).reshape(3, 1, 1) for part in _scales(folder))
    size, tokens = (grid[0] * patch, grid[1] * patch), grid[0] * grid[1]

    def encode(images: Tensor) -> Tensor:
        pixels = (images.expand(-1, 3, -1, -1) + 1) / 2
        pixels = functional.interpolate(pixels, size, mode="bicubic", antialias=True)
        found: Tensor = network((pixels - mean) / std).last_hidden_state
        return found[:, -tokens:]  # after the class token and registers

    return encode


def _scales(folder: str) -> tuple[Any, Any]:
    """Return mean and standard deviation of the pixels that an encoder was trained on."""
    file = Path(folder) / "preprocessor_config.json"
    said = json.loads(file.read_text()) if file.is_file() else {}
    return said.get("image_mean", IMAGENET_MEAN), said.get("image_std", IMAGENET_STD)
