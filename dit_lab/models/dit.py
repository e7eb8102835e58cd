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

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from dit_lab.core.calls import HeadNeed, Output, Route
from dit_lab.core.cost import mlp_width
from dit_lab.core.errors import RequestError
from dit_lab.models.blocks import Block, FinalLayer, close_gates, initialise_linear
from dit_lab.models.embeddings import (
    LabelEmbedding,
    PatchEmbedding,
    RotaryPositions,
    TimeEmbedding,
    sincos_positions,
)
from dit_lab.models.heads import ImageHead, make_head
from dit_lab.models.options import check_activation_checkpointing, check_layers, recomputed
from dit_lab.models.routes import Fusion, Way

STEP = "step"
"""Name of the embedding of the distance from the first time to the second."""


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
        second_time: take a second time, whose distance from the first is embedded like a time.
        conditions: names of further scalar inputs, each embedded like a time. These embeddings are
            added to the condition and start at zero, so that the model is at first one of one time.
        heads: further outputs, computed from the tokens of inner blocks.
        fusion: first and last block, from 1, over which a `Fusion` joins the tokens.
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
        second_time: bool = False,
        conditions: Sequence[str] = (),
        heads: Sequence[HeadNeed] = (),
        fusion: tuple[int, int] | None = None,
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

        def block(number: int) -> Block:
            return Block(
                hidden_size,
                num_heads,
                mlp_width(hidden_size, mlp_ratio, mlp),
                norm=norm,
                mlp=mlp,
                qk_norm=qk_norm,
                rotary=rotary,
                recompute=recomputed(number, activation_checkpointing),
            )

        def final_layer() -> FinalLayer:
            return FinalLayer(hidden_size, patch_size**2 * self.out_channels, norm=norm)

        self.blocks = nn.ModuleList(block(number) for number in range(1, depth + 1))
        self.final_layer = final_layer()
        self.initialise(generator)
        # After the model's own, which the same seed then initialises alike with and without these.
        self.scalar_embedders, self.heads = nn.ModuleDict(), nn.ModuleDict()
        for name in (*([STEP] if second_time else []), *conditions):
            self.scalar_embedders[name] = embedder = TimeEmbedding(hidden_size)
            embedder.initialise_to_zero(generator)
        self.head_after: dict[str, int] = {}  # head -> the block whose tokens it takes, from 1
        for need in heads:
            self.heads[need.name] = head = make_head(
                need,
                width=hidden_size,
                depth=depth,
                grid=self.grid,
                block=block,
                final_layer=final_layer,
            )
            head.initialise(generator)
            self.head_after[need.name] = need.begins(depth)
        self.span, self.fusion = fusion, None
        if fusion is not None:
            self.fusion = Fusion(hidden_size)
            self.fusion.initialise()

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        labels: Tensor,
        *,
        to: Tensor | None = None,
        conditions: Mapping[str, Tensor] | None = None,
        heads: Sequence[str] = (),
        hidden: Sequence[int] = (),
        main: bool = True,
        route: Route | None = None,
    ) -> Tensor | Output:
        """Predict the raw output (N, K, H, W) of images x (N, C, H, W).

        Args:
            x: noisy images or latents (N, C, H, W).
            time: model time (N,), in the unit of the objective (`Objective.model_time`).
            labels: class labels (N,) int64; may be `null_label`.
            to: second time (N,) of a model of two times; None for `time`.
            conditions: values (N,) of the further scalar inputs, by name.
            heads: names of the heads whose output is wanted.
            hidden: numbers of the blocks, from 1, whose tokens (N, T, D) are wanted.
            main: False for an `Output` without the raw output, and without the blocks that only
                the raw output needs.
            route: blocks that compute only a part of the tokens. The others are put back in their
                places after it; with a fusion, its mask takes their places.

        Returns:
            The raw output; with `heads` or `hidden`, an `Output`.

        Raises:
            RequestError: the size of x is not `input_size`.
        """
        if x.shape[-2:] != self.input_size:
            raise RequestError(f"DiT: images are {tuple(x.shape[-2:])}, not {self.input_size}")
        tokens = self.x_embedder(x) + self.pos_embed  # (N, T, D)
        condition = self.t_embedder(time)  # (N, D)
        if self.y_embedder is not None:
            condition = condition + self.y_embedder(labels)
        if self.scalar_embedders:
            distance = torch.zeros_like(time) if to is None else to - time
            values = {**(conditions or {}), STEP: distance}
            for name, embedder in self.scalar_embedders.items():
                condition = condition + embedder(values[name])
        way = Way(route, self.span, self.fusion)
        wanted = {*hidden, *(self.head_after[name] for name in heads), way.last}
        until = len(self.blocks) if main else max(wanted)
        after = {0: tokens}
        for number, block in enumerate(self.blocks[:until], start=1):
            tokens = block(way.into(number, tokens), condition, way.places(number))
            if number in wanted:
                after[number] = way.whole(number, tokens)
            if number == way.last:
                tokens = after[number]
        answer = self._image(self.final_layer(tokens, condition)) if main else None
        if not (heads or hidden) and answer is not None:
            return answer
        return Output(
            main=tokens.new_empty(0) if answer is None else answer,
            heads={
                name: self._of_head(name, after[self.head_after[name]], condition) for name in heads
            },
            hidden={number: after[number] for number in hidden},
        )

    def _of_head(self, name: str, tokens: Tensor, condition: Tensor) -> Tensor:
        """Return the output of a head, an image (N, K, H, W) or tokens (N, T, Z)."""
        head = self.heads[name]
        output: Tensor = head(tokens, condition)
        return self._image(output) if isinstance(head, ImageHead) else output

    def _image(self, patches: Tensor) -> Tensor:
        """Arrange the patches (N, T, p * p * K) of the tokens as images (N, K, H, W)."""
        (rows, columns), p = self.grid, self.patch_size
        patches = patches.unflatten(1, (rows, columns)).unflatten(3, (p, p, self.out_channels))
        return patches.permute(0, 5, 1, 3, 2, 4).reshape(-1, self.out_channels, *self.input_size)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator | None = None) -> None:
        """Initialise all parameters as the original code does; the model then outputs exactly 0."""
        initialise_linear(self, generator)
        self.t_embedder.initialise(generator)
        if self.y_embedder is not None:
            table = self.y_embedder.embedding_table
            nn.init.normal_(table.weight, std=0.02, generator=generator)
        close_gates(self.blocks, self.final_layer)
        self.pos_embed.copy_(sincos_positions(self.pos_embed.shape[2], *self.grid)[None])


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
