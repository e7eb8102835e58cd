"""Heads: further outputs of a diffusion transformer, from the tokens of inner blocks.

Shapes: N images, T = rows x columns tokens, D width, p patch size, K output channels, Z the last
width of a token head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise

import torch
from torch import Tensor, nn

from dit_lab.core.calls import HeadNeed
from dit_lab.core.errors import RequestError
from dit_lab.models.blocks import Block, FinalLayer, close_gates, initialise_linear


class ImageHead(nn.Module):
    """Blocks and a final layer of its own, from tokens to patches."""

    def __init__(self, blocks: Iterable[Block], final_layer: FinalLayer) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.final_layer = final_layer

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Map tokens x (N, T, D) and a condition (N, D) to patches (N, T, p * p * K)."""
        for block in self.blocks:
            x = block(x, condition)
        patches: Tensor = self.final_layer(x, condition)
        return patches

    @torch.no_grad()
    def initialise(self, generator: torch.Generator | None) -> None:
        """Initialise all parameters as those of the model, so that the output is 0 at first."""
        initialise_linear(self, generator)
        close_gates(self.blocks, self.final_layer)


class TokenHead(nn.Module):
    """Linear layers with SiLU between them, or one convolution, from each token to a vector.

    Args:
        width: width D of a token.
        widths: widths of the layers' outputs.
        kernel: above 1, one convolution over the grid with this side, which is odd.
        grid: rows and columns of the tokens.
    """

    def __init__(
        self, width: int, widths: tuple[int, ...], *, kernel: int, grid: tuple[int, int]
    ) -> None:
        super().__init__()
        self.grid = grid
        self.layers: nn.Module
        if kernel > 1:
            self.layers = nn.Conv2d(width, widths[-1], kernel, padding=kernel // 2)
        else:
            linear = [nn.Linear(*sizes) for sizes in pairwise((width, *widths))]
            between = (layer for one in linear[:-1] for layer in (one, nn.SiLU()))
            self.layers = nn.Sequential(*between, linear[-1])

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Map tokens x (N, T, D) to (N, T, Z); the condition is not used."""
        if not isinstance(self.layers, nn.Conv2d):
            mapped: Tensor = self.layers(x)
            return mapped
        cells: Tensor = self.layers(x.transpose(1, 2).unflatten(2, self.grid))
        return cells.flatten(2).transpose(1, 2)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator | None) -> None:
        """Initialise all layers as the linear layers of the model."""
        initialise_linear(self, generator)


def make_head(
    need: HeadNeed,
    *,
    width: int,
    depth: int,
    grid: tuple[int, int],
    block: Callable[[int], Block],
    final_layer: Callable[[], FinalLayer],
) -> ImageHead | TokenHead:
    """Return the layers of a head, not initialised.

    Args:
        need: what the head is.
        width: width of a token.
        depth: number of blocks of the model.
        grid: rows and columns of the tokens.
        block: makes a block of the model by its number, from 1.
        final_layer: makes a final layer of the model.

    Raises:
        RequestError: the model has no such block.
    """
    after = need.begins(depth)
    if not 0 <= after <= depth:
        raise RequestError(f"head {need.name}: the model has {depth} blocks, not {need.after}")
    if need.widths:
        return TokenHead(width, need.widths, kernel=need.kernel, grid=grid)
    return ImageHead((block(after + number) for number in range(1, need.blocks + 1)), final_layer())
