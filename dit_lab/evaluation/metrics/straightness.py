"""Straightness of the sampling paths of a model.

Shapes: N images, C channels, H x W pixels or latent cells.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from dit_lab.core.devices import widest_float
from dit_lab.core.interpolants import Interpolant
from dit_lab.core.types import Predict
from dit_lab.samplers.grid import TimeGrid
from dit_lab.samplers.ode import velocity_of

STEPS = 100


@torch.no_grad()
def path_deviation(
    predict: Predict, noise: Tensor, interpolant: Interpolant, *, steps: int = STEPS
) -> tuple[Tensor, Tensor]:
    """Return (deviation, squared length) of each path, both (N,) in the device's widest float type.

    The deviation is the mean over time of |displacement - velocity|^2 along an Euler path of
    `steps` steps; the squared length is |displacement|^2. Their ratio is 0 for straight paths at
    constant speed, which a single Euler step follows exactly.

    Source: Liu et al. 2022, eq. 3.
    """
    velocity = velocity_of(predict, interpolant)
    times = TimeGrid(steps=steps).over(interpolant.t_min, interpolant.t_max)
    x, slopes = noise, []
    for t, t_next in pairwise(times):
        slopes.append(velocity(x, t))
        x = x + (t_next - t) * slopes[-1]
    displacement = (x - noise) / (times[-1] - times[0])
    squares = [_square(displacement - slope) for slope in slopes]
    return torch.stack(squares).mean(0), _square(displacement)


def _square(x: Tensor) -> Tensor:
    return x.to(widest_float(x.device)).square().flatten(1).sum(1)
