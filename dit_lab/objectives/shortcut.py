"""Shortcut models (Frans et al. 2024, "One Step Diffusion via Shortcut Models").

The model predicts the average velocity u(x_t, t, t + d) over a step of size d. Most images are
trained by flow matching, at d = 0. For the others, a step of size d must equal two steps of d/2 by
averaged weights, without gradient (eq. 5). No derivative is needed.

Shapes: N images, C channels, H x W pixels or latent cells.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from dit_lab.core.types import Batch, ModelCall
from dit_lab.objectives.mean_flow import TwoTimes, indices_of


class Shortcut(TwoTimes):
    """Shortcut model. The reference also clamps targets to [-4, 4], which is left out here.

    Args:
        bootstrap_every: one in this many images, by its position in the training, is trained on two
            half steps.
        finest_steps: the smallest step is 1 / this number, a power of 2. Half steps below it are
            taken at d = 0.
        target_weights: "average" or "current" weights for the half steps.
        time_sampling, logit_mean, logit_std, time_shift: distribution of t for flow matching, as in
            `FlowObjective`. For the others t is a multiple of d.
        time_scale, learn_sigma: as in `FlowObjective`.

    Raises:
        RequestError: an option is invalid.
    """

    def __init__(
        self,
        *,
        bootstrap_every: int = 8,
        finest_steps: int = 128,
        target_weights: str = "average",
        time_sampling: str = "uniform",
        logit_mean: float = 0.0,
        logit_std: float = 1.0,
        time_shift: float | str = 1.0,
        time_scale: float = 1.0,
        learn_sigma: bool = False,
        latent_shape: tuple[int, int, int] | None = None,
    ) -> None:
        super().__init__(
            time_sampling=time_sampling,
            logit_mean=logit_mean,
            logit_std=logit_std,
            time_shift=time_shift,
            time_scale=time_scale,
            learn_sigma=learn_sigma,
            latent_shape=latent_shape,
        )
        self.bootstrap_every, self.finest_steps = bootstrap_every, finest_steps
        self.target_weights = target_weights
        self.averaged_weights = target_weights == "average"

    def draws(self, uniform: Callable[[str], Tensor]) -> Mapping[str, Tensor]:
        """Return the number of steps 1 / d and the index of t among them, each (N,) int64."""
        sizes = self.finest_steps.bit_length() - 1  # 1, 1/2, ..., 2 / finest_steps
        steps = 2 ** (uniform("step_size") * sizes).long()
        return {"steps": steps, "place": (uniform("step_place") * steps).long()}

    def loss(self, predict: ModelCall, batch: Batch) -> dict[str, Tensor]:
        """Return the loss terms of each image.

        Returns:
            "loss", the mean squared error (N,) float32 of the velocity or of the average velocity.
        """
        shortcut = batch.sample_counter % self.bootstrap_every == 0
        steps, place = batch.draws["steps"], batch.draws["place"]
        t = torch.where(shortcut, place / steps, batch.time)
        s = torch.where(shortcut, (place + 1) / steps, batch.time)
        x = self.interpolant.interpolate(batch.data, batch.noise, t)
        target = self.interpolant.velocity(batch.data, batch.noise, t)
        part = indices_of(shortcut)
        mean = self._two_steps(predict, x[part], t[part], s[part], predict.labels[part])
        target[part] = torch.where(shortcut[part].reshape(-1, 1, 1, 1), mean, target[part])
        error = (self.ask(predict, x, t, s) - target).square().flatten(1).mean(1)
        return {"loss": error}

    @torch.no_grad()
    def _two_steps(
        self, predict: ModelCall, x: Tensor, t: Tensor, s: Tensor, labels: Tensor
    ) -> Tensor:
        """Return the mean velocity (n, C, H, W) of two steps of half the size from t to s."""
        half = (s - t) / 2
        step = torch.where(half < 1 / self.finest_steps, 0.0, half)

        def velocity(x: Tensor, t: Tensor) -> Tensor:
            return self.ask(predict, x, t, t + step, labels=labels, weights=self.target_weights)

        first = velocity(x, t)
        second = velocity(x + half.reshape(-1, 1, 1, 1) * first, t + half)
        return (first + second) / 2
