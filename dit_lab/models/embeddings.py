"""How a diffusion transformer reads its three inputs, patches, time and class labels, and how it
knows the places of the patches.

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
    """Fixed two-dimensional sin-cos code of every token, float32 (rows * columns, D), row by row.

    The first half of the width tells the column and the second the row; each is D/4 sines, then
    D/4 cosines, with periods from 2 pi to 10,000 * 2 pi (the order of the original DiT weights).
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
    """Turns pairs of numbers in queries and keys by angles that grow with a token's place, so that
    their products depend on distances (Su et al. 2021, "RoFormer"), in two dimensions.

    The first half of a head's width tells the row and the second the column, each with D / 4h
    frequencies from 1 to almost 1/10,000; pairs are neighbours. Nothing in it is learned or saved.
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

    def forward(self, x: Tensor) -> Tensor:
        """Queries or keys (N, T, h, D / h) -> the same, turned; float32 at least."""
        cos, sin = self.cos[:, None], self.sin[:, None]  # (T, 1, D / 2h)
        first, second = x.unflatten(3, (-1, 2)).unbind(4)  # each (N, T, h, D / 2h)
        turned = (first * cos - second * sin, second * cos + first * sin)
        return torch.stack(turned, dim=4).flatten(3)


class PatchEmbedding(nn.Module):
    """Cuts an image into p x p patches and maps each to a token.

    The map is kept as the original's convolution, whose patches do not overlap: a matrix product of
    patches that were cut out does the same in less time.
    """

    def __init__(self, patch_size: int, in_channels: int, hidden_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, hidden_size, kernel_size=patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, T, D)."""
        weight = self.proj.weight  # (D, C, p, p)
        p = weight.shape[2]
        cells = x.unflatten(3, (-1, p)).unflatten(2, (-1, p))  # (N, C, H / p, p, W / p, p)
        patches = cells.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)  # (N, T, C * p * p)
        return linear(patches, weight.flatten(1), self.proj.bias)


class TimeEmbedding(nn.Module):
    """Sinusoids of the time, then an MLP.

    The sinusoids are built for times of the order of 0..1000. All of it is computed in float32 even
    under autocast: bfloat16 cannot tell 937 from 936, and this is a small part of the work.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(TIME_FEATURES, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size)
        )

    def forward(self, time: Tensor) -> Tensor:
        """(N,) of any number type -> (N, D)."""
        with torch.autocast(time.device.type, enabled=False):
            return self.mlp(self.sinusoids(time).to(next(self.mlp.parameters()).dtype))

    @staticmethod
    def sinusoids(time: Tensor) -> Tensor:
        """(N,) -> float32 (N, 256): 128 cosines, then 128 sines, fastest first."""
        half = TIME_FEATURES // 2
        index = torch.arange(half, dtype=torch.float32, device=time.device)
        frequency = torch.exp(-math.log(LONGEST_PERIOD) * index / half)
        angle = time.to(torch.float32)[:, None] * frequency  # (N, 128)
        return torch.cat([angle.cos(), angle.sin()], dim=1)


class LabelEmbedding(nn.Module):
    """One learned row per class and, where the label is dropped in training, one more.

    That last row, `num_classes`, is the null label: what guidance means by "no class".
    """

    def __init__(self, num_classes: int, hidden_size: int, *, null_label: bool) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(num_classes + null_label, hidden_size)

    def forward(self, labels: Tensor) -> Tensor:
        """int64 (N,) -> (N, D)."""
        return self.embedding_table(labels)
