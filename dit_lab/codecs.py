"""Pixels to what the model sees, and back. The only place that knows a latent's scale and shift.

Shapes: N images of (c, h, w) pixels, latents of (C, H, W).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from dit_lab.types import RequestError

CHUNK_IMAGES = 16  # images in the autoencoder at once


class Identity:
    """The model works on pixels. Implements `types.Codec`."""

    fingerprint = "identity"

    def latent_shape(self, channels: int, height: int, width: int) -> tuple[int, int, int]:
        """The shape of the pixels."""
        return channels, height, width

    def encode(self, images: Tensor, noise: Tensor) -> Tensor:
        """The images themselves; `noise` changes nothing."""
        return images

    def decode(self, latents: Tensor) -> Tensor:
        """The latents themselves."""
        return latents

    def to(self, device: torch.device | str) -> Self:
        """Holds nothing, so it is everywhere."""
        return self


class AutoencoderKL:
    """A variational autoencoder in diffusers format, in float32 whatever the training's precision.

    Latents are a draw from the posterior, brought to about unit variance with the numbers of the
    autoencoder's own config: (z - latents_mean) / latents_std * scaling_factor, or
    (z - shift_factor) * scaling_factor. `decode` undoes exactly that and does not clamp: pixels
    may overshoot [-1, 1] a little until they are written as bytes.

    `path` is a folder with config.json and safetensors weights; nothing is downloaded. Images pass
    through the network CHUNK_IMAGES at a time, which bounds the memory that it needs.
    Implements `types.Codec`.
    """

    def __init__(self, *, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        self._network = _load_network(self.path)
        self._mean, self._std = _latent_statistics(self.path, self._network.config)
        self.fingerprint = _fingerprint(self._network)

    def to(self, device: torch.device | str) -> Self:
        """Move the network; images and latents are expected on the same device."""
        self._network.to(device)
        self._mean, self._std = self._mean.to(device), self._std.to(device)
        return self

    def latent_shape(self, channels: int, height: int, width: int) -> tuple[int, int, int]:
        """The shape of the latents of such images; `RequestError` where they do not fit."""
        config = self._network.config
        factor = 2 ** (len(config.block_out_channels) - 1)  # every block but the last halves
        if channels != config.in_channels or height % factor or width % factor:
            raise RequestError(
                f"codec.path={self.path}: takes {config.in_channels} channels and sides that "
                f"divide by {factor}, not {channels}x{height}x{width}"
            )
        return config.latent_channels, height // factor, width // factor

    def encode(self, images: Tensor, noise: Tensor) -> Tensor:
        """images (N, c, h, w) and posterior noise (N, C, H, W) -> latents (N, C, H, W)."""
        latents = []
        with _exact(images.device):
            for chunk, noise_chunk in zip(self._chunks(images), self._chunks(noise), strict=True):
                posterior = self._network.encode(chunk).latent_dist
                latents.append(posterior.mean + posterior.std * noise_chunk)
            return (torch.cat(latents) - self._mean) / self._std

    def decode(self, latents: Tensor) -> Tensor:
        """latents (N, C, H, W) -> images (N, c, h, w), in [-1, 1] up to a small overshoot."""
        with _exact(latents.device):
            raw = latents.float() * self._std + self._mean
            return torch.cat([self._network.decode(chunk).sample for chunk in self._chunks(raw)])

    def _chunks(self, images: Tensor) -> tuple[Tensor, ...]:
        return images.float().split(CHUNK_IMAGES)


@contextmanager
def _exact(device: torch.device) -> Iterator[None]:
    """No gradient, and float32 even inside the training's autocast."""
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        yield


def _load_network(path: Path) -> Any:
    """The network in evaluation mode; refused unless every weight comes from the folder."""
    if not (path / "config.json").is_file():  # diffusers would take the name for one of a hub
        raise RequestError(
            f"{path / 'config.json'} is missing: give a folder in diffusers format with codec.path"
        )
    import diffusers  # seconds to import, and only this class needs it
    from diffusers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)  # what is wrong is said below
    try:
        network, report = diffusers.AutoencoderKL.from_pretrained(
            path,
            local_files_only=True,
            use_safetensors=True,  # never a pickle
            torch_dtype=torch.float32,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise RequestError(
            f"codec.path={path}: cannot be loaded ({reason}); save the autoencoder again"
        ) from error
    finally:
        logging.set_verbosity(verbosity)
    if report["missing_keys"]:  # diffusers only warns, and leaves random numbers there
        missing = sorted(report["missing_keys"])
        raise RequestError(
            f"codec.path={path}: {len(missing)} weights are missing, such as {missing[0]}; "
            "save the autoencoder again"
        )
    return network.eval().requires_grad_(False)


def _latent_statistics(path: Path, config: Any) -> tuple[Tensor, Tensor]:
    """What the config subtracts from a raw latent and then divides by, each (1, C or 1, 1, 1)."""
    if config.shift_factor and config.latents_mean is not None:
        raise RequestError(
            f"{path / 'config.json'}: gives both shift_factor and latents_mean; "
            "keep the one that the weights were trained with"
        )
    mean = config.shift_factor or 0.0 if config.latents_mean is None else config.latents_mean
    std = 1.0 if config.latents_std is None else config.latents_std
    mean, std = (torch.tensor(values).reshape(1, -1, 1, 1) for values in (mean, std))
    return mean, std / config.scaling_factor


def _fingerprint(network: Any) -> str:
    """A hash of the config, without the notes of the library that saved it, and all weights."""
    config = {key: value for key, value in network.config.items() if not key.startswith("_")}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name, weight in sorted(network.state_dict().items()):
        digest.update(f"{name} {tuple(weight.shape)}".encode())
        digest.update(weight.contiguous().numpy())
    return digest.hexdigest()
