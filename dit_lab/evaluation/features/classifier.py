"""A small CNN trained on the dataset: features and classes where published networks do not apply.

It is trained once per dataset and cached. Training on another machine rounds differently and gives
another network, so the fingerprint covers how and on what data it was trained.

Shapes: N images of H x W pixels and c channels, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from dit_lab.core import rng
from dit_lab.core.files import atomic_path
from dit_lab.core.tensor_file import save_tensors
from dit_lab.core.types import DataFacts, Dataset
from dit_lab.evaluation.features.extractors import (
    IMAGES_AT_ONCE,
    Features,
    Probabilities,
    pooled_size,
)
from dit_lab.runs.folder import digest
from dit_lab.sampling.images import to_uint8

WIDTHS = (32, 64)  # channels at half and a quarter of the resolution
NUM_FEATURES = 64
BATCH_IMAGES = 128
EPOCHS, MOST_STEPS = 20, 1000  # whichever is reached first
LEARNING_RATE, WEIGHT_DECAY = 1e-2, 1e-2


def classifier_fingerprint(facts: DataFacts) -> str:
    """Return 12 hex digits: a hash of the data and the training settings."""
    recipe = (WIDTHS, NUM_FEATURES, BATCH_IMAGES, EPOCHS, MOST_STEPS, LEARNING_RATE, WEIGHT_DECAY)
    return digest({"data": facts.fingerprint, "levels": facts.levels, "recipe": recipe})


class Classifier:
    """Features before the last layer and probabilities after it. Implements `Extractor`."""

    name = "classifier"

    def __init__(self, network: _Network, *, fingerprint: str, device: torch.device) -> None:
        self.fingerprint = fingerprint
        self._network, self._device = network.to(device).eval(), device

    @torch.no_grad()
    def features(self, images: Tensor) -> Features:
        """Map uint8 images (N, H, W, c) to features (N, D)."""
        parts = images.split(IMAGES_AT_ONCE)
        seen = [self._network.trunk(_prepared(part).to(self._device)).cpu() for part in parts]
        return torch.cat(seen).numpy()

    @torch.no_grad()
    def maps(self, images: Tensor) -> Tensor:
        """Map images (N, c, h, w) in [-1, 1] to feature maps (N, WIDTHS[-1], h / 4, w / 4)."""
        small = functional.adaptive_avg_pool2d(images, pooled_size(*images.shape[2:]))
        found: Tensor = self._network.trunk[: 3 * len(WIDTHS)](small)
        return found

    @torch.no_grad()
    def probabilities(self, features: Features) -> Probabilities:
        """Map features (N, D) to class probabilities (N, K)."""
        logits = self._network.head(torch.from_numpy(features).to(self._device))
        return logits.cpu().double().softmax(dim=1).numpy()


class _Network(nn.Module):
    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in WIDTHS:
            convolution = nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False)
            layers += [convolution, nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        layers += [nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16 * channels, NUM_FEATURES)]
        # fixes the norm of features, and so the scale of their distances
        even = nn.LayerNorm(NUM_FEATURES, elementwise_affine=False)
        self.trunk = nn.Sequential(*layers, nn.SiLU(), even)
        self.head = nn.Linear(NUM_FEATURES, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, c, h, w) to logits (N, K)."""
        return self.head(self.trunk(x))


def _prepared(images: Tensor) -> Tensor:
    """Convert uint8 (N, H, W, c) to (N, c, h, w) in [-1, 1]; h and w are at most 32."""
    floats = images.permute(0, 3, 1, 2).float() / 127.5 - 1
    return functional.adaptive_avg_pool2d(floats, pooled_size(*images.shape[1:3]))


def trained_classifier(
    train: Dataset,
    facts: DataFacts,
    *,
    folder: Path,
    device: torch.device,
    check_stop: Callable[[], None],
) -> Classifier:
    """Return the classifier of a class-conditional dataset, from `folder` if it is cached there.

    Otherwise it is trained and saved in `folder`.
    """
    fingerprint = classifier_fingerprint(facts)
    file = folder / f"classifier-{fingerprint}.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = _Network(facts.channels, facts.num_classes)
    if file.exists():
        network.load_state_dict(load_file(file))
    else:
        _train(network.to(device), train, levels=facts.levels, check_stop=check_stop)
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(file) as beside:
            save_tensors(network.cpu().state_dict(), beside)
    return Classifier(network, fingerprint=fingerprint, device=device)


def _train(
    network: nn.Module, train: Dataset, *, levels: int, check_stop: Callable[[], None]
) -> None:
    """Train with AdamW and a one-cycle learning rate, on images in a fixed order."""
    per_epoch = max(1, len(train) // BATCH_IMAGES)
    steps = min(EPOCHS * per_epoch, MOST_STEPS)
    device = next(network.parameters()).device
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    for step in range(steps):
        check_stop()
        epoch, number = divmod(step, per_epoch)
        order = rng.permutation(0, "classifier/order", epoch, len(train))
        images, labels = train.fetch(order[number * BATCH_IMAGES :][:BATCH_IMAGES], None)
        with torch.enable_grad():
            logits = network(_prepared(to_uint8(images, levels)).to(device))
            functional.cross_entropy(logits, labels.to(device)).backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
