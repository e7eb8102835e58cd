"""Likelihood of real images in bits per dimension, by the instantaneous change of variables.

The flow maps noise to data, so an image's log density is that of its noise minus the integrated
divergence: log p(x at t_max) = log N(x at t_min; 0, 1) - integral of div(velocity) dt (Chen et al.
2018; Song et al. 2021, section 4.3). The image's label is used. Guidance is off, because a guided
model follows a different flow.

Images are discrete and a density is continuous, so uniform noise of the width of a level is added
first (Theis et al. 2016). The result is then an upper bound on the bits of the discrete image.

Shapes: N images, C channels, H x W pixels, D = C * H * W.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Unpack

import torch
from torch import Tensor

from dit_lab.core import rng
from dit_lab.core.calls import Asked
from dit_lab.core.devices import widest_float
from dit_lab.core.interpolants import Interpolant
from dit_lab.core.process_group import SINGLE_PROCESS, map_over_ranks
from dit_lab.core.types import Dataset, LabelledCall, Objective, Predict, ProcessGroup
from dit_lab.evaluation.table import Row
from dit_lab.samplers.adaptive import clamp_to_path
from dit_lab.samplers.guidance import Guidance, predictor
from dit_lab.samplers.ode import velocity_of

EXACT_DIMENSIONS = 16  # exact divergence up to this D, else estimated
TOLERANCE = 1e-5
CHUNK_IMAGES = 32

Divergence = Callable[[Tensor, Tensor], Tensor]
"""(velocity (N, C, H, W), x that it was computed from) -> its divergence (N,)."""


def log_density(
    predict: Predict,
    x: Tensor,
    interpolant: Interpolant,
    *,
    probe: Tensor | None = None,
    tolerance: float = TOLERANCE,
) -> Tensor:
    """Return log p(x) in nats, (N,) in the dtype of x.

    Args:
        predict: the model's prediction.
        x: images (N, C, H, W), taken to be at t_max, where the paths of chains and of flow matching
            still contain a little noise.
        interpolant: the interpolant of the objective.
        probe: random signs (N, C, H, W) for Hutchinson's estimate of the divergence (1990); None
            computes it exactly, with D backward passes per velocity.
        tolerance: relative and absolute tolerance of the ODE solver.
    """
    from torchdiffeq import odeint  # imports scipy (about 1 s)

    velocity = velocity_of(predict, interpolant)
    divergence = exact_divergence if probe is None else _hutchinson(probe)

    def slope(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            at = state[0].detach().requires_grad_()
            moving = velocity(at, clamp_to_path(t, interpolant))
            spread = divergence(moving, at)
        return moving.detach(), spread.detach()

    wide = widest_float(x.device)
    span = torch.tensor([interpolant.t_max, interpolant.t_min], dtype=wide, device=x.device)
    start = (x, torch.zeros(len(x), dtype=x.dtype, device=x.device))
    ends, spreads = odeint(
        slope,
        start,
        span,
        rtol=tolerance,
        atol=tolerance,
        method="dopri5",
        options={"step_t": span[-1:], "dtype": wide},  # no step beyond t_min
    )
    noise = ends[-1].flatten(1)
    of_noise = -(noise.square() + math.log(2 * math.pi)).sum(1) / 2
    return of_noise + spreads[-1]  # integrated from t_max to t_min


def exact_divergence(velocity: Tensor, x: Tensor) -> Tensor:
    """Return the trace of the Jacobian, (N,), with one backward pass per dimension."""
    total = torch.zeros(len(x), dtype=x.dtype, device=x.device)
    flat = velocity.flatten(1)
    for d in range(flat.shape[1]):
        (row,) = torch.autograd.grad(flat[:, d].sum(), x, retain_graph=True)
        total = total + row.flatten(1)[:, d]
    return total


def _hutchinson(probe: Tensor) -> Divergence:
    def divergence(velocity: Tensor, x: Tensor) -> Tensor:
        (row,) = torch.autograd.grad((velocity * probe).sum(), x)
        return (row * probe).flatten(1).sum(1)

    return divergence


def bits_per_dimension(log_density: Tensor, *, dimensions: int, level_width: float) -> Tensor:
    """Return bits per dimension, (N,), from the dequantised log density (N,) in nats."""
    return -log_density / (dimensions * math.log(2)) - math.log2(level_width)


@dataclass(frozen=True, kw_only=True)
class Likelihood:
    """Bits per dimension of held-out images, evenly spaced over the split.

    Only for models in pixel space. Dequantisation noise and probes are functions of (seed, index).
    """

    objective: Objective
    held_out: Dataset
    num_images: int
    levels: int  # number of pixel values in the data
    seed: int
    device: torch.device
    process_group: ProcessGroup = SINGLE_PROCESS
    check_stop: Callable[[], None]

    def row(self, model: LabelledCall) -> Row:
        """Return the mean over images, with its standard error as the deviation."""
        count = min(self.num_images, len(self.held_out))
        chosen = (torch.arange(count) * len(self.held_out) // count).split(CHUNK_IMAGES)
        bits = torch.cat(
            list(map_over_ranks(self.process_group, chosen, partial(self._bits, model)))
        )
        error = bits.std() / math.sqrt(len(bits)) if len(bits) > 1 else None
        return Row(
            metric="bits_per_dimension",
            extractor="",
            against="held-out",
            num_images=len(bits),
            value=bits.mean().item(),
            deviation=None if error is None else error.item(),
        )

    def _bits(self, model: LabelledCall, indices: Tensor) -> Tensor:
        """Return bits per dimension (N,) of the held-out images at these indices (N,)."""
        self.check_stop()
        width = 2 / (self.levels - 1)  # of a level, for images in [-1, 1]
        images, labels = self.held_out.fetch(indices, None)
        noise, signs = (
            rng.normal(self.seed, f"likelihood/{purpose}", indices, tuple(images.shape[1:]))
            for purpose in ("dequantisation", "probe")
        )
        x = (images + width * (torch.special.ndtr(noise) - 0.5)).to(self.device)
        dimensions = x[0].numel()
        predict = predictor(
            self._checked(model),
            self.objective,
            labels.to(self.device),
            null_label=None,
            guidance=Guidance(),
        )
        density = log_density(
            predict,
            x,
            self.objective.interpolant,
            probe=None if dimensions <= EXACT_DIMENSIONS else signs.sign().to(self.device),
        )
        return bits_per_dimension(density.cpu().double(), dimensions=dimensions, level_width=width)

    def _checked(self, model: LabelledCall) -> LabelledCall:
        def call(x: Tensor, time: Tensor, labels: Tensor, **asked: Unpack[Asked]) -> Tensor:
            self.check_stop()
            return model(x, time, labels, **asked)

        return call
