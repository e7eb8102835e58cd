"""Routes: blocks that compute only a part of the tokens, and what happens to the others.

TREAD (Krause et al. 2025) puts the tokens that a route leaves out back where they were. SPRINT
(Park et al. 2025) replaces them by a learned mask, and joins the result with the tokens before the
route by a linear layer.

Shapes: N images, T tokens, K of them computed, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dit_lab.core.calls import Route


class Fusion(nn.Module):
    """Linear layer that joins the tokens before and after a route, and the mask of SPRINT.

    At first it passes on the tokens after the route: without a route, the model is the one without
    this layer.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mask = nn.Parameter(torch.empty(1, 1, width))
        self.join = nn.Linear(2 * width, width)

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        """Map tokens before and after the route, (N, T, D) each, to tokens (N, T, D)."""
        joined: Tensor = self.join(torch.cat([before, after], dim=2))
        return joined

    @torch.no_grad()
    def initialise(self) -> None:
        """Set the mask to zero, and the layer to the tokens after the route."""
        self.mask.zero_()
        self.join.bias.zero_()
        width = self.join.out_features
        self.join.weight.copy_(torch.eye(2 * width)[width:])


class Way:
    """The way of the tokens of one forward pass through the blocks."""

    def __init__(
        self, route: Route | None, span: tuple[int, int] | None, fusion: Fusion | None
    ) -> None:
        """Follow a route, or none: then a fusion, if there is one, joins all tokens over `span`."""
        self.kept = route.kept if route is not None else None  # (N, K)
        self.first, self.last = (route.first, route.last) if route else (span or (0, 0))
        self.fusion = fusion
        self._before: Tensor | None = None  # (N, T, D), the tokens that enter the route

    def into(self, number: int, tokens: Tensor) -> Tensor:
        """Return the tokens that block `number` computes, from those after the block before."""
        if number != self.first:
            return tokens
        self._before = tokens
        return tokens if self.kept is None else tokens.gather(1, _wide(self.kept, tokens))

    def places(self, number: int) -> Tensor | None:
        """Return the places (N, K) of the tokens that block `number` computes; None: all."""
        return self.kept if self.first <= number <= self.last else None

    def whole(self, number: int, tokens: Tensor) -> Tensor:
        """Return all tokens (N, T, D) after block `number`, from those that it computed."""
        if not self.first <= number <= self.last or self._before is None:
            return tokens
        if self.kept is not None:
            rest = self._before if self.fusion is None else self.fusion.mask.to(tokens.dtype)
            tokens = rest.expand_as(self._before).scatter(1, _wide(self.kept, tokens), tokens)
        if self.fusion is None or number != self.last:
            return tokens
        if self.kept is None and torch.is_grad_enabled():
            tokens = tokens + 0 * self.fusion.mask  # has a gradient, as DDP expects
        return self.fusion(self._before, tokens)


def _wide(kept: Tensor, tokens: Tensor) -> Tensor:
    """Return places (N, K) as indices (N, K, D)."""
    return kept[:, :, None].expand(-1, -1, tokens.shape[2])
