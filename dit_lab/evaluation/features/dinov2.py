"""DINOv2's vision transformer, compatible with its published weights.

Oquab et al., "DINOv2: Learning Robust Visual Features without Supervision", 2023, arXiv:2304.07193.

Shapes: N images, T patches, D features.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, interpolate, scaled_dot_product_attention

PATCH = 14
TRAINED_SIDE = 37  # patches: position embeddings for 518 x 518 pixels
HEAD_FEATURES = 64
EPSILON = 1e-6
OFFSET = 0.1  # in patches; the published code adds it to the interpolated size


class VisionTransformer(nn.Module):
    """Maps normalised images (N, 3, H, W), sides divisible by 14, to the class token (N, D)."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.mask_token = nn.Parameter(torch.zeros(1, width))  # unused here, but in every file
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + TRAINED_SIDE**2, width))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, PATCH, PATCH)})
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width, EPSILON)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patch_embed["proj"](images)
        positions = self._positions(*patches.shape[-2:])
        tokens = patches.flatten(2).mT
        tokens = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], 1) + positions
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens[:, 0])

    def _positions(self, rows: int, columns: int) -> Tensor:
        """Return position embeddings (1, 1 + T, D), interpolated to the image's patches."""
        if rows == columns == TRAINED_SIDE:
            return self.pos_embed
        own, others = self.pos_embed.split([1, TRAINED_SIDE**2], dim=1)
        scaled = interpolate(
            others.mT.unflatten(2, (TRAINED_SIDE, TRAINED_SIDE)),
            scale_factor=((rows + OFFSET) / TRAINED_SIDE, (columns + OFFSET) / TRAINED_SIDE),
            mode="bicubic",
        )
        return torch.cat([own, scaled.flatten(2).mT], 1)


class Block(nn.Module):
    """Pre-norm attention and MLP blocks with LayerScale and residual connections."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, EPSILON)
        self.attn = Attention(width)
        self.ls1 = Scale(width)
        self.norm2 = nn.LayerNorm(width, EPSILON)
        self.mlp = MLP(width)
        self.ls2 = Scale(width)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.ls1(self.attn(self.norm1(tokens)))
        return tokens + self.ls2(self.mlp(self.norm2(tokens)))


class Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        split = self.qkv(tokens).unflatten(2, (3, -1, HEAD_FEATURES))  # (N, 1 + T, 3, heads, 64)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        mixed = scaled_dot_product_attention(query, key, value)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc2(gelu(self.fc1(tokens)))


class Scale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens * self.gamma
