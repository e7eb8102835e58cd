"""Methods that compute only a part of the tokens in the inner blocks, in training.

Shapes: N images, T tokens, K of them computed.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from dit_lab.core.calls import Asked, Evaluated, ModelCall, ModelNeeds, Progress, Route, Uniform
from dit_lab.core.method import Method
from dit_lab.core.types import Batch, Objective
from dit_lab.methods.options import computed_tokens, sprint_span, tread_span


class Tread(Method):
    """TREAD (Krause et al. 2025, "Token Routing for Efficient Architecture-agnostic Diffusion").

    Between two blocks only a random part of the tokens is computed; the others skip these blocks.

    Args:
        depth: number of blocks of the model.
        tokens: number T of tokens.
        share: share of the tokens that skip the blocks.
        first: first of these blocks, from 1; None for 1 + 1/14 of the blocks, and at least 2.
        last: last of them; None for all but 1/7 of the blocks.
    """

    def __init__(
        self,
        *,
        depth: int,
        tokens: int,
        share: float = 0.5,
        first: int | None = None,
        last: int | None = None,
    ) -> None:
        self.tokens, self.computed = tokens, computed_tokens(tokens, share)
        self.first, self.last = tread_span(depth, first, last)

    def draws(self, uniform: Uniform) -> Mapping[str, Tensor]:
        """Return the tokens that the blocks compute, ascending, (N, K) int64."""
        order = uniform("tokens", self.tokens).argsort(dim=1)
        return {"computed": order[:, : self.computed].sort(dim=1).values}

    def asks(self, batch: Batch, progress: Progress) -> Asked:
        return {"route": Route(self.first, self.last, batch.draws["computed"])}

    def terms(
        self, seen: Evaluated, predict: ModelCall, batch: Batch, objective: Objective
    ) -> dict[str, Tensor]:
        """Return "loss", which is 0: the route changes that of the objective."""
        return {"loss": batch.data.new_zeros(len(batch.data))}


class Sprint(Tread):
    """SPRINT (Park et al. 2025): a learned mask for the tokens left out, joined with early ones.

    A linear layer joins the tokens before and after the blocks, in sampling too. The last part of
    the training computes all tokens.

    Args:
        depth: number of blocks of the model.
        tokens: number T of tokens.
        share: share of the tokens that skip the blocks.
        first: first of these blocks, from 1; None for the third, or the second of few.
        last: last of them; None for all but two, or all but one of few.
        until: share of the training after which all tokens are computed.
    """

    def __init__(
        self,
        *,
        depth: int,
        tokens: int,
        share: float = 0.75,
        first: int | None = None,
        last: int | None = None,
        until: float = 0.9,
    ) -> None:
        first, last = sprint_span(depth, first, last)
        super().__init__(depth=depth, tokens=tokens, share=share, first=first, last=last)
        self.until = until
        self.depends_on_end = until < 1
        self.needs = ModelNeeds(fusion=(first, last))

    def asks(self, batch: Batch, progress: Progress) -> Asked:
        return super().asks(batch, progress) if progress.share < self.until else {}
