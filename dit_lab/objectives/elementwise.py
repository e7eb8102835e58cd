"""Elementwise losses: squared error and pseudo-Huber loss.

The pseudo-Huber loss (Charbonnier et al. 1997) is quadratic near zero and linear for large errors,
so that outliers count less. Song & Dhariwal 2023 ("Improved Techniques for Training Consistency
Models", eq. 7) apply it to whole images. Trainers of diffusion models apply it to each element,
scaled so that it equals the squared error for small errors (Khrapov et al. 2024, "Improving
Diffusion Models's Data-Corruption Resistance using Scheduled Pseudo-Huber Loss"; diffusers and
sd-scripts with a constant schedule).
"""

from __future__ import annotations

from torch import Tensor

HUBER_C = 0.1
"""Default error at which the loss turns from quadratic to linear; from diffusers and sd-scripts."""


def cost(error: Tensor, loss: str, huber_c: float | None) -> Tensor:
    """Return the loss of each error, in the shape of `error`.

    Args:
        error: prediction errors of any shape.
        loss: "squared" for error^2; "huber" for 2 c (sqrt(error^2 + c^2) - c), which approaches
            error^2 as c grows.
        huber_c: c of the Huber loss; None means 0.1.
    """
    square = error.square()
    if loss == "squared":
        return square
    c = HUBER_C if huber_c is None else huber_c
    # Equal to the formula above, but without its cancellation of nearly equal numbers.
    return 2 * square / (1 + (1 + square / c**2).sqrt())
