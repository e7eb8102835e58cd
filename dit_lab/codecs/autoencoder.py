"""diffusers' autoencoders, with the scale and shift of their latents.

Shapes: N images of (c, h, w) pixels, latents of (C, H, W). Moments are (N, M, H, W): mean and
log-variance of the posterior (M = 2C), or the raw latent (M = C) of deterministic autoencoders.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, Self

import torch
from torch import Tensor

from dit_lab.codecs.facts import latent_shape
from dit_lab.codecs.loading import fingerprint_of, latent_statistics, load_network, quiet

LOG_VARIANCE_RANGE = (-30.0, 20.0)  # as diffusers clamps it


class Autoencoder:
    """Autoencoder in diffusers format (AutoencoderKL, -Tiny, -DC). Implements `types.Codec`.

    Latents of an AutoencoderKL are sampled from the posterior. All latents are scaled to about unit
    variance with the values of the autoencoder's config: (z - latents_mean) / latents_std *
    scaling_factor, or (z - shift_factor) * scaling_factor. `decode` inverts this and does not
    clamp: pixels may exceed [-1, 1] slightly until they are converted to bytes.

    Args:
        path: a folder with config.json and safetensors weights, or hub:OWNER/NAME[/FOLDER].
        dtype: precision of the network, independent of the training's precision.
        chunk_images: number of images that are encoded or decoded at once, which bounds the memory.
        tiling: divide large images into overlapping tiles, which changes pixels slightly.

    Raises:
        RequestError: the autoencoder is missing, damaged or of an unknown class.
    """

    def __init__(
        self,
        *,
        path: str | Path,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        chunk_images: int = 16,
        tiling: bool = False,
    ) -> None:
        self.path = path
        self.chunk_images = chunk_images
        self._dtype = getattr(torch, dtype)
        self._network = load_network(path)
        self._mean, self._std = latent_statistics(path, self._network.config)
        self.fingerprint = fingerprint_of(self._network, dtype=dtype, tiling=tiling)
        if dtype != "float32":
            with quiet():
                self._network.to(self._dtype)
        if tiling:
            self._network.enable_tiling()
        self.draws = type(self._network).__name__ == "AutoencoderKL"

    def to(self, device: torch.device | str) -> Self:
        """Move the network to a device, where it expects images and latents."""
        self._network.to(device)
        self._mean, self._std = self._mean.to(device), self._std.to(device)
        return self

    def latent_shape(self, channels: int, height: int, width: int) -> tuple[int, int, int]:
        """Return the shape of the latents; raise RequestError for images that do not suit."""
        config = {"_class_name": type(self._network).__name__, **self._network.config}
        return latent_shape(self.path, config, channels=channels, height=height, width=width)

    def moments(self, images: Tensor) -> Tensor:
        """Encode images (N, c, h, w) to moments (N, M, H, W) float32, before any scale or shift."""
        return self._in_chunks(self._moments, images)

    def latents(self, moments: Tensor, noise: Tensor | None) -> Tensor:
        """Convert moments (N, M, H, W) and posterior noise (N, C, H, W) to latents (N, C, H, W)."""
        moments = moments.float()
        if not self.draws:
            return (moments - self._mean) / self._std
        assert noise is not None
        mean, log_variance = moments.chunk(2, dim=1)
        std = log_variance.clamp(*LOG_VARIANCE_RANGE).mul_(0.5).exp_()
        return std.mul_(noise).add_(mean).sub_(self._mean).div_(self._std)

    def encode(self, images: Tensor, noise: Tensor | None) -> Tensor:
        """Encode images (N, c, h, w) with posterior noise (N, C, H, W) to latents (N, C, H, W)."""
        return self.latents(self.moments(images), noise)

    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents (N, C, H, W) to images (N, c, h, w), approximately in [-1, 1]."""
        raw = latents.float() * self._std + self._mean
        return self._in_chunks(lambda chunk: self._network.decode(chunk).sample, raw)

    def _moments(self, images: Tensor) -> Tensor:
        found = self._network.encode(images)
        if self.draws:
            return found.latent_dist.parameters
        return found.latents if hasattr(found, "latents") else found.latent

    def _in_chunks(self, call: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        with _exact(images.device):
            chunks = images.to(self._dtype).split(self.chunk_images)
            return torch.cat([call(chunk).float() for chunk in chunks])


@contextmanager
def _exact(device: torch.device) -> Iterator[None]:
    """Context without gradients and without the training's autocast."""
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        yield
