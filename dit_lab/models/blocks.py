"""Blocks and final layer of a diffusion transformer.

Shapes: N images, T tokens, D width, p patch size, K output channels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, addcmul, nn
from torch.utils.checkpoint import (
    checkpoint,
    create_selective_checkpoint_contexts,
)

from dit_lab.models.embeddings import RotaryPositions
from dit_lab.models.layers import Attention, Mlp, SwiGLU, token_norm

ATTENTION = ("flash_attention", "efficient_attention", "cudnn_attention", "flash_attention_for_cpu")
"""Private names of torch's attention kernels; names that torch does not know are ignored."""


class Block(nn.Module):
    """Attention and an MLP, each in a residual branch that the condition modulates and gates.

    Args:
        mlp_size: hidden width M of the MLP.
        norm, mlp, qk_norm: as in `DiT`.
        rotary: as in `Attention`.
        recompute: what the backward pass recomputes in training mode: "nothing", "everything", or
            "selective" for all but the outputs of matrix products and of attention.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        mlp_size: int,
        *,
        norm: str = "layer",
        mlp: str = "gelu",
        qk_norm: bool = False,
        rotary: RotaryPositions | None = None,
        recompute: str = "nothing",
    ) -> None:
        super().__init__()
        self.recompute = recompute
        self.norm1 = token_norm(norm, hidden_size)
        self.attn = Attention(
            hidden_size, num_heads, qk_norm=norm if qk_norm else None, rotary=rotary
        )
        self.norm2 = token_norm(norm, hidden_size)
        self.mlp = (SwiGLU if mlp == "swiglu" else Mlp)(hidden_size, mlp_size)
        self.adaLN_modulation = _modulation(hidden_size, 6)

    def forward(self, x: Tensor, condition: Tensor, places: Tensor | None = None) -> Tensor:
        """Map tokens x (N, T, D) and a condition (N, D) to tokens (N, T, D).

        `places` (N, T) are those of the tokens on the grid; None if they are all its tokens.
        """
        if self.recompute == "nothing" or not self.training:
            return self._transform(x, condition, places)
        if self.recompute == "selective":
            return _checkpointed(self._transform, x, condition, places, context_fn=_keep_products)
        return _checkpointed(self._transform, x, condition, places)

    def _transform(self, x: Tensor, condition: Tensor, places: Tensor | None) -> Tensor:
        modulation = self.adaLN_modulation(condition)[:, None]  # (N, 1, 6 D)
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = modulation.chunk(6, dim=2)
        x = addcmul(x, gate_a, self.attn(addcmul(shift_a, self.norm1(x), 1 + scale_a), places))
        return addcmul(x, gate_m, self.mlp(addcmul(shift_m, self.norm2(x), 1 + scale_m)))


class FinalLayer(nn.Module):
    """Modulated norm and a linear layer from each token to the output values of its patch."""

    def __init__(self, hidden_size: int, patch_values: int, *, norm: str = "layer") -> None:
        super().__init__()
        self.norm_final = token_norm(norm, hidden_size)
        self.linear = nn.Linear(hidden_size, patch_values)
        self.adaLN_modulation = _modulation(hidden_size, 2)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Map tokens x (N, T, D) and a condition (N, D) to patches (N, T, p * p * K)."""
        shift, scale = self.adaLN_modulation(condition)[:, None].chunk(2, dim=2)
        return self.linear(addcmul(shift, self.norm_final(x), 1 + scale))


def initialise_linear(model: nn.Module, generator: torch.Generator | None) -> None:
    """Initialise all linear layers, and patch embeddings as such, with biases of zero."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):  # a Conv2d as a linear layer
            nn.init.xavier_uniform_(module.weight.flatten(1), generator=generator)
            assert module.bias is not None
            nn.init.zeros_(module.bias)


def close_gates(blocks: nn.ModuleList, final_layer: FinalLayer) -> None:
    """Set to zero what adaLN-Zero starts at zero: modulations, and weights of the final layer."""
    for layer in (*blocks, final_layer):
        nn.init.zeros_(layer.adaLN_modulation[1].weight)
    nn.init.zeros_(final_layer.linear.weight)


def _checkpointed(run: Callable[..., Tensor], *inputs: Tensor | None, **how: Any) -> Tensor:
    """Call `run` under activation checkpointing; `run` must not use random numbers."""
    return checkpoint(run, *inputs, use_reentrant=False, preserve_rng_state=False, **how)


def _keep_products() -> Any:
    """Return checkpoint contexts that keep the outputs of matrix products and of attention."""
    kernels = torch.ops.aten
    attention = [getattr(kernels, f"_scaled_dot_product_{name}", None) for name in ATTENTION]
    return create_selective_checkpoint_contexts(
        [kernels.mm.default, kernels.addmm.default, *(one.default for one in attention if one)]
    )


def _modulation(hidden_size: int, count: int) -> nn.Sequential:
    """Return the layer that maps the condition (N, D) to `count` vectors of width D."""
    return nn.Sequential(nn.SiLU(), nn.Linear(hidden_size, count * hidden_size))
