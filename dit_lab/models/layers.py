"""Layers of a diffusion transformer block: norms, attention and two kinds of MLP.

Shapes: N images, T tokens, D width, h heads, M width of the MLP.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, rms_norm, scaled_dot_product_attention, silu

from dit_lab.models.embeddings import RotaryPositions

NORM_EPS = 1e-6


class RMSNorm(nn.RMSNorm):
    """RMSNorm with a learned scale (Zhang & Sennrich 2019), computed in float32 or wider."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (..., D) over its last dimension; the result is float32 or wider."""
        wide = torch.promote_types(x.dtype, torch.float32)
        assert self.weight is not None
        return rms_norm(x.to(wide), self.normalized_shape, self.weight.to(wide), self.eps)


def token_norm(kind: str, hidden_size: int) -> nn.Module:
    """Return the norm over a token's width: "layer" without parameters, "rms" with a scale."""
    if kind == "rms":
        return RMSNorm(hidden_size, eps=NORM_EPS)
    return nn.LayerNorm(hidden_size, eps=NORM_EPS, elementwise_affine=False)


def head_norm(kind: str, head_size: int) -> nn.Module:
    """Return the norm over a head's width, "layer" or "rms", with parameters."""
    return RMSNorm(head_size, eps=NORM_EPS) if kind == "rms" else nn.LayerNorm(head_size)


class Attention(nn.Module):
    """Multi-head self-attention over all tokens.

    Args:
        qk_norm: norm of queries and keys, "layer" or "rms"; None for no norm (Henry et al. 2020,
            "Query-Key Normalization for Transformers").
        rotary: rotary position embedding of queries and keys, shared by all blocks; None for none.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        *,
        qk_norm: str | None = None,
        rotary: RotaryPositions | None = None,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.proj = nn.Linear(hidden_size, hidden_size)
        if qk_norm is not None:
            self.q_norm = head_norm(qk_norm, hidden_size // num_heads)
            self.k_norm = head_norm(qk_norm, hidden_size // num_heads)
        self.qk_norm = qk_norm
        self.rotary = rotary

    def forward(self, x: Tensor, places: Tensor | None = None) -> Tensor:
        """Map tokens (N, T, D) to tokens (N, T, D); `places` (N, T) if they are not all tokens."""
        qkv = self.qkv(x).unflatten(2, (3, self.num_heads, -1))  # (N, T, 3, h, D / h)
        query, key, value = qkv.unbind(2)  # each (N, T, h, D / h)
        if self.qk_norm is not None:
            query, key = self.q_norm(query), self.k_norm(key)
        if self.rotary is not None:
            query, key = self.rotary(query, places), self.rotary(key, places)
        parts = (part.to(value.dtype).transpose(1, 2) for part in (query, key, value))
        mixed = scaled_dot_product_attention(*parts)  # (N, h, T, D / h)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two linear layers with GELU (tanh approximation) between them."""

    def __init__(self, hidden_size: int, mlp_size: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(hidden_size, mlp_size)
        self.fc2 = nn.Linear(mlp_size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (N, T, D) to tokens (N, T, D)."""
        return self.fc2(gelu(self.fc1(x), approximate="tanh"))


class SwiGLU(nn.Module):
    """Gated MLP (Shazeer 2020, "GLU Variants Improve Transformer").

    The SiLU of the first half of the output of `w12` multiplies the second half.
    """

    def __init__(self, hidden_size: int, mlp_size: int) -> None:
        super().__init__()
        self.w12 = nn.Linear(hidden_size, 2 * mlp_size)
        self.w3 = nn.Linear(mlp_size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (N, T, D) to tokens (N, T, D)."""
        gate, passing = self.w12(x).chunk(2, dim=2)  # each (N, T, M)
        return self.w3(silu(gate) * passing)
