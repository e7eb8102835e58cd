"""Kinds of guidance: how a raw output is moved away from another one.

Shapes: N images, C guided channels, H x W.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from dit_lab.core.devices import widest_float


@dataclass(frozen=True, slots=True)
class Projected:
    """Options of adaptive projected guidance (Sadat et al. 2024, "Eliminating Oversaturation").

    Args:
        parallel: eta, the share that is kept of the difference parallel to the output.
        norm_threshold: r, the largest norm of a difference; 0 for no bound.
        momentum: beta, added times the average of the differences at earlier times; the paper uses
            negative ones.
    """

    parallel: float = 0.0
    norm_threshold: float = 0.0
    momentum: float = 0.0


def away(output: Tensor, other: Tensor, scale: float) -> Tensor:
    """Return the output of classifier-free guidance and its kin, moved away from the other one."""
    return other + scale * (output - other)


def zero_star(output: Tensor, other: Tensor, scale: float) -> Tensor:
    """Return the guided output of CFG-Zero* (Fan et al. 2025), with `other` scaled to fit `output`.

    The factor of each image minimises the distance of both.
    """
    dims = tuple(range(1, output.dim()))
    product = (output * other).sum(dims, keepdim=True)
    size = other.square().sum(dims, keepdim=True) + 1e-8
    return away(output, other * (product / size), scale)


class ProjectedGuidance:
    """Adaptive projected guidance along one trajectory of each image.

    The average of the differences goes on only when time does: an evaluation at the time of the
    last one, as samplers of second order make, uses the average of that time.
    """

    def __init__(self, options: Projected) -> None:
        self._options = options
        self._time = float("-inf")
        self._before: Tensor | None = None  # the average at earlier times
        self._now: Tensor | None = None

    def guided(self, output: Tensor, other: Tensor, *, scale: float, t: float) -> Tensor:
        """Return output + (scale - 1) * (the projected difference of output and other)."""
        difference = output - other
        if self._options.momentum:
            difference = self._averaged(difference, t)
        dims = tuple(range(1, output.dim()))
        if (most := self._options.norm_threshold) > 0:
            size = difference.square().sum(dims, keepdim=True).sqrt()
            difference = difference * (most / size).clamp(max=1.0)
        # in float64, as the parallel part may be small beside both
        wide = widest_float(output.device)
        long, direction = difference.to(wide), normalize(output.to(wide).flatten(1), dim=1)
        direction = direction.view_as(output)
        parallel = (long * direction).sum(dims, keepdim=True) * direction
        update = long - parallel + self._options.parallel * parallel
        return output + (scale - 1) * update.to(output.dtype)

    def _averaged(self, difference: Tensor, t: float) -> Tensor:
        if t > self._time:
            self._time, self._before = t, self._now
        before = torch.zeros_like(difference) if self._before is None else self._before
        self._now = difference + self._options.momentum * before
        return self._now


def rescaled(moved: Tensor, plain: Tensor, rescale: float) -> Tensor:
    """Return `moved` with the standard deviation of `plain`, wholly (1) or in part.

    Lin et al. 2024, section 3.4.
    """
    before, after = (
        part.flatten(1).std(1, correction=0).reshape(-1, 1, 1, 1) for part in (plain, moved)
    )
    ratio = torch.where(after > 0, before / after, 1.0)  # constant outputs stay as they are
    return moved * (rescale * ratio + 1 - rescale)
