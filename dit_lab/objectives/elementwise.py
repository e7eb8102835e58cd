"""What an error of one number costs: its square, or a pseudo-Huber loss.

The pseudo-Huber loss (Charbonnier et al. 1997) is the square near zero and linear far from it, so
that outliers count less. Consistency models made it common for diffusion (Song & Dhariwal 2023,
"Improved Techniques for Training Consistency Models", eq. 7, of whole images); trainers of
diffusion models use it of each number, scaled so that small errors cost their square (Khrapov et
al. 2024, "Improving Diffusion Models's Data-Corruption Resistance using Scheduled Pseudo-Huber
Loss"; diffusers and sd-scripts with a constant schedule).
"""

from __future__ import annotations

from torch import Tensor

HUBER_C = 0.1
"""The error at which the loss turns from square to linear, as diffusers and sd-scripts have it."""


def cost(error: Tensor, loss: str, huber_c: float | None) -> Tensor:
    """Of each error, any shape: error^2 where `loss` is "squared"; 2 c (sqrt(error^2 + c^2) - c)
    where it is "huber", which goes to error^2 as c grows. c is `huber_c`, 0.1 where None."""
    square = error.square()
    if loss == "squared":
        return square
    c = HUBER_C if huber_c is None else huber_c
    # the same, without the difference of two large numbers
    return 2 * square / (1 + (1 + square / c**2).sqrt())
