"""The derivative of a network along a trajectory, by forward-mode differentiation.

For an average velocity u(x, t, s) and fixed s, du/dt = v . grad_x u + the partial derivative by t.

Shapes: N images, C channels, H x W pixels or latent cells.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from dit_lab.core.errors import RequestError

HALF_STEP = 5e-3
"""Half the distance in flow time of a difference quotient. Smaller ones lose float32 digits."""

Trajectory = Callable[[Tensor, Tensor], Tensor]
"""(x (N, C, H, W), flow time (N,)) -> (N, C, H, W)."""


@torch.no_grad()
def along(function: Trajectory, x: Tensor, t: Tensor, velocity: Tensor, *, by: str) -> Tensor:
    """Return the derivative (N, C, H, W) of `function` along the velocity, without gradients.

    Args:
        function: the function of (x, t).
        x: points (N, C, H, W).
        t: flow times (N,).
        velocity: dx/dt (N, C, H, W).
        by: "jvp" for forward-mode differentiation, at the cost of two evaluations: attention runs
            in torch's `math` kernel, as the fused kernels have no forward mode. "difference" for a
            central difference, two evaluations by any kernel, with an error of `HALF_STEP` squared.

    Raises:
        RequestError: a layer of the model has no forward-mode derivative.
    """
    if by == "difference":
        ahead, behind = (
            widened(function(x + step * velocity, t + step)) for step in (HALF_STEP, -HALF_STEP)
        )
        return (ahead - behind) / (2 * HALF_STEP)
    try:
        with sdpa_kernel(SDPBackend.MATH), forward_ad.dual_level():
            moving = forward_ad.make_dual(x, velocity.to(x.dtype))
            value = function(moving, forward_ad.make_dual(t, torch.ones_like(t)))
            derivative = forward_ad.unpack_dual(value).tangent
    except NotImplementedError as error:
        raise RequestError(_refusal(str(error).split(". ")[0])) from error
    if derivative is None:
        raise RequestError(_refusal("the output of the model does not depend on its time"))
    return widened(derivative)


def widened(tensor: Tensor) -> Tensor:
    """Return the tensor in float32 or wider."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _refusal(why: str) -> str:
    return (
        f"objective.derivative=jvp: the model has no forward-mode derivative ({why}); use "
        "objective.derivative=difference"
    )
