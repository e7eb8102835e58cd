"""Inception v3 and DINOv2 features, as torch-fidelity computes them.

The user provides the weight files; nothing is downloaded.

Shapes: N images, H x W pixels, c channels, D features, K classes.
"""

from __future__ import annotations

import hashlib
import io
from abc import ABC, abstractmethod
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from dit_lab.core.errors import RequestError
from dit_lab.core.text import local_path
from dit_lab.evaluation.features.dinov2 import VisionTransformer
from dit_lab.evaluation.features.extractors import Features, Probabilities

IMAGES_AT_ONCE = 64  # batch size of torch-fidelity, limited by activations at 299 x 299

Weights = dict[str, Tensor]


class _Extractor(ABC):
    """Base of extractors with published weights. Implements `Extractor`.

    `weights_path` is the folder that holds the weights under their published file name.
    """

    name: str

    def __init__(self, weights_path: str | None, device: torch.device) -> None:
        fidelity = self._torch_fidelity()
        address = self._address(fidelity)
        with _opened(weights_path, self.name, address) as file:
            digest = hashlib.file_digest(file, "sha256")
            file.seek(0)
            try:
                # to the CPU, whatever device they were saved from; tensors only
                weights = torch.load(file, map_location="cpu", weights_only=True)
                network = self._load(fidelity, weights)
            except Exception as error:  # invalid pickles may raise any exception
                raise RequestError(
                    f"{file.name}: not the weights of {self.name}, or damaged; get them from "
                    f"{address} again"
                ) from error
        digest.update(f"{self.name} {network.INPUT_IMAGE_SIZE} bilinear, TensorFlow 1's".encode())
        self.fingerprint = digest.hexdigest()[:12]
        self._device, self._network = device, network.to(device)

    def features(self, images: Tensor) -> Features:
        """Map uint8 images (N, H, W, c), c = 1 or 3, to features (N, D)."""
        return torch.cat(list(self._seen(images))).numpy()

    def probabilities(self, features: Features) -> Probabilities | None:
        return None

    @torch.no_grad()
    def _seen(self, images: Tensor) -> Iterator[Tensor]:
        """Yield the features of each batch, on the CPU."""
        for part in images.split(IMAGES_AT_ONCE):
            pixels = part.permute(0, 3, 1, 2).expand(-1, 3, -1, -1).to(self._device)
            yield self._network(pixels)[0].cpu()

    def _torch_fidelity(self) -> ModuleType:
        try:
            import torch_fidelity
        except ImportError:
            raise RequestError(
                f"the extractor {self.name} needs torch-fidelity; pip install 'dit-lab[eval]'"
            ) from None
        return torch_fidelity

    @abstractmethod
    def _address(self, fidelity: ModuleType) -> str:
        """Return the URL of the weights."""

    @abstractmethod
    def _load(self, fidelity: ModuleType, weights: Weights) -> Any:
        """Return torch-fidelity's module with the weights: uint8 (N, 3, H, W) -> (features, ..)."""


class Inception(_Extractor):
    """Inception v3 as used by FID: D = 2048, K = 1008; logits without biases."""

    name = "inception"

    def probabilities(self, features: Features) -> Probabilities:
        """Map features (N, 2048) to class probabilities (N, 1008)."""
        last = self._network.fc.weight.cpu()
        return (torch.from_numpy(features) @ last.T).double().softmax(dim=1).numpy()

    def _address(self, fidelity: ModuleType) -> str:
        return fidelity.feature_extractor_inceptionv3.URL_INCEPTION_V3

    def _load(self, fidelity: ModuleType, weights: Weights) -> Any:
        written = io.BytesIO()  # it loads any pickle, so it gets the checked weights
        torch.save(weights, written)
        written.seek(0)
        return fidelity.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], written)


class DinoV2(_Extractor):
    """DINOv2 ViT-L/14; features are the class token, D = 1024."""

    name = "dinov2"
    width, depth = 1024, 24
    _called = "dinov2-vit-l-14"

    def _address(self, fidelity: ModuleType) -> str:
        """Return the URL of the weights, which torch-fidelity would get through downloaded code."""
        model = fidelity.feature_extractor_dinov2.MODEL_METADATA[self._called]
        return f"https://dl.fbaipublicfiles.com/dinov2/{model}/{model}_pretrain.pth"

    def _load(self, fidelity: ModuleType, weights: Weights) -> Any:
        with torch.device("meta"):  # skips the initialisation of weights that are replaced
            network = VisionTransformer(self.width, self.depth)
        network.load_state_dict(weights, assign=True)

        # its __init__ always downloads a network
        extractor = fidelity.FeatureExtractorDinoV2.__new__(fidelity.FeatureExtractorDinoV2)
        fidelity.FeatureExtractorBase.__init__(extractor, self._called, ["dinov2"])
        extractor.feature_extractor_internal_dtype = torch.float32
        extractor.model = network.float().requires_grad_(False)
        return extractor.eval()


def _opened(weights_path: str | None, name: str, address: str) -> io.BufferedReader:
    file = address.rpartition("/")[2]
    if weights_path is None:
        raise RequestError(
            f"evaluation.weights_path=null: the extractor {name} needs a folder with {file}; get "
            f"that from {address}, nothing is downloaded automatically"
        )
    try:
        return open(local_path(weights_path, "evaluation.weights_path=") / file, "rb")
    except OSError as error:
        raise RequestError(
            f"evaluation.weights_path={weights_path}: {file} cannot be read there "
            f"({error.strerror}); get it from {address}, nothing is downloaded automatically"
        ) from None
