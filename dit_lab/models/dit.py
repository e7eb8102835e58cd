"""Diffusion transformer (DiT) with adaLN-Zero conditioning.

Peebles & Xie 2022, "Scalable Diffusion Models with Transformers": a vision transformer whose
LayerNorms have no parameters. The condition (time and class) supplies a shift and a scale after
each norm, and a gate before each residual sum. The gates are initialised to zero, so every block
starts as the identity and the whole model as the zero function.

Parameter names and initialisation match the original code, so that public DiT and SiT weights load
without renaming. Options that the original does not have (`norm`, `mlp`, `rope`, `qk_norm`) follow
LightningDiT (Yao et al. 2025, "Reconstruction vs. Generation") and its parameter names.

Shapes: N images, C input channels, K output channels (C, or 2C with learn_sigma), H x W pixels or
latent cells, p patch size, T = (H / p)(W / p) tokens, D width, h heads.
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

from dit_lab.core.cost import mlp_width
from dit_lab.core.errors import RequestError
from dit_lab.models.embeddings import (
    LabelEmbedding,
    PatchEmbedding,
    RotaryPositions,
    TimeEmbedding,
    sincos_positions,
)
from dit_lab.models.layers import Attention, Mlp, SwiGLU, token_norm
from dit_lab.models.options import check_activation_checkpointing, check_layers, recomputed

ATTENTION = ("flash_attention", "efficient_attention", "cudnn_attention", "flash_attention_for_cpu")
"""Private names of torch's attention kernels; names that torch does not know are ignored."""


class DiT(nn.Module):
    """Diffusion transformer: maps noisy images, times and labels to a raw output of the same size.

    Args:
        input_size: (height, width) of the input in pixels or latent cells; multiples of
            `patch_size`, which may differ from each other.
        patch_size: side p of a patch, in pixels or latent cells.
        in_channels: channels C of the input.
        hidden_size: width D of a token; a multiple of `num_heads` and of 4.
        depth: number of blocks.
        num_heads: attention heads h of each block.
        mlp_ratio: width of the MLP as a multiple of `hidden_size`.
        num_classes: 0 builds an unconditional model, which has no label table and ignores labels.
        class_dropout_prob: above 0, the label table has one more row, for `null_label`. The model
            has no random state and drops no labels itself; the code that draws the batch does.
        learn_sigma: output 2C channels, the second half for the variance.
        norm: "layer" (LayerNorm as in the original) or "rms" (RMSNorm with a learned scale).
        mlp: "gelu" as in the original, or "swiglu", which has a gate and two thirds of the width.
        rope: apply rotary position embedding in addition to the position embedding of the tokens.
        qk_norm: normalise queries and keys in each head, with the kind of norm that `norm` names.
        activation_checkpointing: "none"; k to recompute every k-th block in the backward pass; or
            "selective" to recompute all but the outputs of matrix products and of attention in
            every block (Korthikanti et al. 2022). Only in training mode; the gradients are the
            same. k = 1 needs a fraction of the memory and a third more time.
        generator: random generator of the initial parameters, on the device of the model.

    Raises:
        RequestError: sizes do not divide each other, or an option is invalid.
    """

    def __init__(
        self,
        *,
        input_size: tuple[int, int],
        patch_size: int,
        in_channels: int,
        hidden_size: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        num_classes: int,
        class_dropout_prob: float = 0.1,
        learn_sigma: bool = True,
        norm: str = "layer",
        mlp: str = "gelu",
        rope: bool = False,
        qk_norm: bool = False,
        activation_checkpointing: int | str = "none",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        height, width = input_size
        _check_sizes(height, width, patch_size, hidden_size, num_heads)
        check_layers(norm=norm, mlp=mlp, rope=rope, head_size=hidden_size // num_heads)
        check_activation_checkpointing(activation_checkpointing)
        self.input_size = (height, width)
        self.patch_size = patch_size
        self.grid = (height // patch_size, width // patch_size)
        self.in_channels = in_channels
        self.out_channels = 2 * in_channels if learn_sigma else in_channels
        self.num_classes = num_classes
        self.null_label = num_classes if num_classes and class_dropout_prob > 0 else None

        self.x_embedder = PatchEmbedding(patch_size, in_channels, hidden_size)
        self.t_embedder = TimeEmbedding(hidden_size)
        self.y_embedder = (
            LabelEmbedding(num_classes, hidden_size, null_label=self.null_label is not None)
            if num_classes
            else None
        )
        tokens = self.grid[0] * self.grid[1]
        self.pos_embed = nn.Parameter(torch.empty(1, tokens, hidden_size), requires_grad=False)
        rotary = RotaryPositions(hidden_size // num_heads, *self.grid) if rope else None
        self.blocks = nn.ModuleList(
            Block(
                hidden_size,
                num_heads,
                mlp_width(hidden_size, mlp_ratio, mlp),
                norm=norm,
                mlp=mlp,
                qk_norm=qk_norm,
                rotary=rotary,
                recompute=recomputed(number, activation_checkpointing),
            )
            for number in range(1, depth + 1)
        )
        self.final_layer = FinalLayer(hidden_size, patch_size**2 * self.out_channels, norm=norm)
        self.initialise(generator)

    def forward(self, x: Tensor, time: Tensor, labels: Tensor) -> Tensor:
        """Predict the raw output (N, K, H, W) of images x (N, C, H, W).

        Args:
            x: noisy images or latents (N, C, H, W).
            time: model time (N,), in the unit of the objective (`Objective.model_time`).
            labels: class labels (N,) int64; may be `null_label`.

        Raises:
            RequestError: the size of x is not `input_size`.
        """
        if x.shape[-2:] != self.input_size:
            raise RequestError(f"DiT: images are {tuple(x.shape[-2:])}, not {self.input_size}")
        tokens = self.x_embedder(x) + self.pos_embed  # (N, T, D)
        condition = self.t_embedder(time)  # (N, D)
        if self.y_embedder is not None:
            condition = condition + self.y_embedder(labels)
        for block in self.blocks:
            tokens = block(tokens, condition)
        return self._assemble(self.final_layer(tokens, condition))

    def _assemble(self, patches: Tensor) -> Tensor:
        """Arrange the patches (N, T, p * p * K) of the tokens as images (N, K, H, W)."""
        (rows, columns), p = self.grid, self.patch_size
        patches = patches.unflatten(1, (rows, columns)).unflatten(3, (p, p, self.out_channels))
        return patches.permute(0, 5, 1, 3, 2, 4).reshape(-1, self.out_channels, *self.input_size)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator | None = None) -> None:
        """Initialise all parameters as the original code does; the model then outputs exactly 0."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):  # a Conv2d as a linear layer
                nn.init.xavier_uniform_(module.weight.flatten(1), generator=generator)
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        for name in ("0.weight", "2.weight"):
            weight = self.t_embedder.mlp.get_parameter(name)
            nn.init.normal_(weight, std=0.02, generator=generator)
        if self.y_embedder is not None:
            table = self.y_embedder.embedding_table
            nn.init.normal_(table.weight, std=0.02, generator=generator)
        for layer in (*self.blocks, self.final_layer):  # adaLN-Zero
            nn.init.zeros_(layer.adaLN_modulation[1].weight)
        nn.init.zeros_(self.final_layer.linear.weight)
        self.pos_embed.copy_(sincos_positions(self.pos_embed.shape[2], *self.grid)[None])


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

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Map tokens x (N, T, D) and a condition (N, D) to tokens (N, T, D)."""
        if self.recompute == "nothing" or not self.training:
            return self._transform(x, condition)
        if self.recompute == "selective":
            return _checkpointed(self._transform, x, condition, context_fn=_keep_products)
        return _checkpointed(self._transform, x, condition)

    def _transform(self, x: Tensor, condition: Tensor) -> Tensor:
        modulation = self.adaLN_modulation(condition)[:, None]  # (N, 1, 6 D)
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = modulation.chunk(6, dim=2)
        x = addcmul(x, gate_a, self.attn(addcmul(shift_a, self.norm1(x), 1 + scale_a)))
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


def _checkpointed(run: Callable[..., Tensor], *inputs: Tensor, **how: Any) -> Tensor:
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


def _check_sizes(height: int, width: int, patch_size: int, hidden_size: int, heads: int) -> None:
    if height % patch_size or width % patch_size:
        raise RequestError(
            f"patch_size: {patch_size} does not divide the input {height}x{width} "
            "(height x width that the model sees); choose a divisor of both"
        )
    if hidden_size % heads:
        raise RequestError(
            f"num_heads: {heads} does not divide hidden_size {hidden_size}; choose a divisor"
        )
    if hidden_size % 4:
        raise RequestError(
            f"hidden_size: {hidden_size} is not a multiple of 4, as the position embedding requires"
        )
