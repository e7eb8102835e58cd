"""Embeddings of a diffusion transformer: patches, positions, time and class labels.

Shapes: N images, C channels, H x W pixels, p patch size, T = (H / p)(W / p) tokens, D width, h
heads.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

TIME_FEATURES = 256
LONGEST_PERIOD = 10_000.0


def sincos_positions(hidden_size: int, rows: int, columns: int) -> Tensor:
    """Return the fixed 2D sin-cos position embedding of all tokens, row by row.

    The first half of the width encodes the column and the second half the row. Each half is D/4
    sines, then D/4 cosines, with periods from 2 pi to 10,000 * 2 pi, in the order of the original
    DiT weights.

    Returns:
        float32 (rows * columns, D).
    """
    row, column = torch.meshgrid(
        torch.arange(rows, dtype=torch.float64),
        torch.arange(columns, dtype=torch.float64),
        indexing="ij",
    )
    quarter = hidden_size // 4
    frequency = LONGEST_PERIOD ** -(torch.arange(quarter, dtype=torch.float64) / quarter)
    parts = []
    for position in (column, row):
        angle = torch.outer(position.flatten(), frequency)  # (T, D / 4)
        parts += [angle.sin(), angle.cos()]
    return torch.cat(parts, dim=1).to(torch.float32)  # (T, D)


class RotaryPositions(nn.Module):
    """Rotary position embedding in two dimensions (Su et al. 2021, "RoFormer").

    Rotates pairs of adjacent features of queries and keys by angles proportional to the token's
    position, so that attention logits depend on relative positions. The first half of a head's
    width encodes the row and the second half the column, each with D / 4h frequencies from 1 to
    almost 1/10,000. It has no parameters, and its buffers are not saved.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, head_size: int, rows: int, columns: int) -> None:
        super().__init__()
        quarter = head_size // 4
        frequency = LONGEST_PERIOD ** -(torch.arange(quarter, dtype=torch.float64) / quarter)
        places = torch.cartesian_prod(
            torch.arange(rows, dtype=torch.float64), torch.arange(columns, dtype=torch.float64)
        )  # (T, 2)
        angle = (places[:, :, None] * frequency).flatten(1)  # (T, D / 2h)
        self.register_buffer("cos", angle.cos().to(torch.float32), persistent=False)
        self.register_buffer("sin", angle.sin().to(torch.float32), persistent=False)

    def forward(self, x: Tensor, places: Tensor | None = None) -> Tensor:
        """Rotate queries or keys x (N, T, h, D / h); the result is at least float32.

        `places` (N, T) are those of the tokens on the grid; None if they are all its tokens.
        """
        cos, sin = (self.cos, self.sin) if places is None else (self.cos[places], self.sin[places])
        cos, sin = cos.unsqueeze(-2), sin.unsqueeze(-2)  # (T, 1, D / 2h) or (N, T, 1, D / 2h)
        first, second = x.unflatten(3, (-1, 2)).unbind(4)  # each (N, T, h, D / 2h)
        turned = (first * cos - second * sin, second * cos + first * sin)
        return torch.stack(turned, dim=4).flatten(3)


class PatchEmbedding(nn.Module):
    """Embedding of p x p patches: cuts an image into patches and maps each to a token.

    The parameters are those of the original's convolution with stride p. Extracting the patches
    and multiplying them by a matrix gives the same result in less time.
    """

    def __init__(self, patch_size: int, in_channels: int, hidden_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, hidden_size, kernel_size=patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to tokens (N, T, D)."""
        weight = self.proj.weight  # (D, C, p, p)
        p = weight.shape[2]
        cells = x.unflatten(3, (-1, p)).unflatten(2, (-1, p))  # (N, C, H / p, p, W / p, p)
        patches = cells.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)  # (N, T, C * p * p)
        return linear(patches, weight.flatten(1), self.proj.bias)


class TimeEmbedding(nn.Module):
    """Sinusoidal features of the time, then an MLP.

    The features suit times of the order of 0..1000. Autocast is off here, because bfloat16 cannot
    distinguish 937 from 936 and this layer is a small part of the compute.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(TIME_FEATURES, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size)
        )

    @torch.no_grad()
    def initialise(self, generator: torch.Generator | None) -> None:
        """Initialise the weights as the original code does."""
        for name in ("0.weight", "2.weight"):
            nn.init.normal_(self.mlp.get_parameter(name), std=0.02, generator=generator)

    @torch.no_grad()
    def initialise_to_zero(self, generator: torch.Generator | None) -> None:
        """Initialise the weights so that the embedding is 0 at first."""
        self.initialise(generator)
        for name in ("0.bias", "2.weight", "2.bias"):
            nn.init.zeros_(self.mlp.get_parameter(name))

    def forward(self, time: Tensor) -> Tensor:
        """Map times (N,) of any numeric dtype to embeddings (N, D)."""
        with torch.autocast(time.device.type, enabled=False):
            return self.mlp(self.sinusoids(time).to(next(self.mlp.parameters()).dtype))

    @staticmethod
    def sinusoids(time: Tensor) -> Tensor:
        """Map times (N,) to float32 (N, 256): 128 cosines, then 128 sines, by falling frequency."""
        half = TIME_FEATURES // 2
        index = torch.arange(half, dtype=torch.float32, device=time.device)
        frequency = torch.exp(-math.log(LONGEST_PERIOD) * index / half)
        angle = time.to(torch.float32)[:, None] * frequency  # (N, 128)
        return torch.cat([angle.cos(), angle.sin()], dim=1)


class LabelEmbedding(nn.Module):
    """Table of class embeddings, with one more row for the null label if `null_label` is true.

    The null label is `num_classes`; it is the unconditional branch of classifier-free guidance.
    """

    def __init__(self, num_classes: int, hidden_size: int, *, null_label: bool) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(num_classes + null_label, hidden_size)

    def forward(self, labels: Tensor) -> Tensor:
        """Map labels (N,) int64 to embeddings (N, D)."""
        return self.embedding_table(labels)
