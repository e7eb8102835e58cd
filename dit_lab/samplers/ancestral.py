"""Ancestral samplers: walk a discrete chain backwards, one visited timestep at a time.

At each timestep the model's guess of the data says where one step back leads. DDPM draws that step
from its Gaussian, fresh noise included; DDIM points from the guess along the noise that the model
saw, and with eta = 0 draws nothing.

Both may leave out timesteps: a chain seen at some of its timesteps is a shorter chain.
Shapes: N images, C channels, H x W pixels or latent cells.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from dit_lab.interpolants import DiscreteDiffusion, Interpolant
from dit_lab.samplers.respacing import visited
from dit_lab.types import DrawNoise, Predict, RequestError


class DDPMSampler:
    """Ancestral sampling (Ho et al. 2020, algorithm 2) on a respaced chain.

    The variance is the learned one where the prediction has it, else the posterior's, which suits
    few steps better than beta. `clip_data` clamps the guessed data to [-1, 1]: for pixels, not
    for latents.
    """

    def __init__(self, *, steps: int = 250, spacing: str = "even", clip_data: bool = False) -> None:
        self.steps = steps
        self.spacing = spacing
        self.clip_data = clip_data

    def evaluations(self, interpolant: Interpolant) -> int:
        """Predictions asked for per image."""
        return self.steps

    @torch.no_grad()
    def sample(
        self,
        predict: Predict,
        noise: Tensor,
        *,
        interpolant: Interpolant,
        draw_noise: DrawNoise,
        on_step: Callable[[int], None] | None = None,
    ) -> Tensor:
        """noise (N, C, H, W) -> data (N, C, H, W); see `types.Sampler`."""
        chain = _chain(interpolant, "ddpm")
        timesteps = visited(self.spacing, chain.num_timesteps, self.steps)
        short = chain.respaced(timesteps)
        x = noise
        for step, place in enumerate(reversed(range(self.steps))):
            prediction = predict(x, chain.flow_time(timesteps[place]))
            data = prediction.data.clamp(-1, 1) if self.clip_data else prediction.data
            mean = short.posterior_mean(data, x, place)
            if place == 0:
                x = mean
            else:
                log_variance = short.log_variance(prediction.variance_fraction, x, place)
                x = mean + (log_variance / 2).exp() * draw_noise(step)
            if on_step is not None:
                on_step(step)
        return x


class DDIMSampler:
    """DDIM (Song et al. 2020, eq. 12) on a respaced chain.

    eta = 0 draws no noise: the same noise gives the same image for any number of steps, nearly.
    eta = 1 draws as much as DDPM with the posterior's variance. `clip_data` clamps the guessed
    data to [-1, 1] and keeps the noise consistent with it.
    """

    def __init__(
        self,
        *,
        steps: int = 50,
        eta: float = 0.0,
        spacing: str = "stride",
        clip_data: bool = False,
    ) -> None:
        if not 0 <= eta <= 1:
            raise RequestError(f"eta: {eta} is not in [0, 1]")
        self.steps = steps
        self.eta = eta
        self.spacing = spacing
        self.clip_data = clip_data

    def evaluations(self, interpolant: Interpolant) -> int:
        """Predictions asked for per image."""
        return self.steps

    @torch.no_grad()
    def sample(
        self,
        predict: Predict,
        noise: Tensor,
        *,
        interpolant: Interpolant,
        draw_noise: DrawNoise,
        on_step: Callable[[int], None] | None = None,
    ) -> Tensor:
        """noise (N, C, H, W) -> data (N, C, H, W); see `types.Sampler`."""
        chain = _chain(interpolant, "ddim")
        timesteps = visited(self.spacing, chain.num_timesteps, self.steps)
        left = [1.0, *chain.alphas_cumprod[timesteps].tolist()]  # of the data's variance
        x = noise
        for step, place in enumerate(reversed(range(self.steps))):
            t = chain.flow_time(timesteps[place])
            prediction = predict(x, t)
            data, direction = prediction.data, prediction.noise
            if self.clip_data:
                data = data.clamp(-1, 1)
                direction = chain.noise_from_data(data, x, t)
            before, now = left[place], left[place + 1]
            fresh = self.eta**2 * (1 - before) / (1 - now) * (1 - now / before)  # variance
            x = math.sqrt(before) * data + math.sqrt(1 - before - fresh) * direction
            if fresh > 0:  # never at the last step, where before = 1
                x = x + math.sqrt(fresh) * draw_noise(step)
            if on_step is not None:
                on_step(step)
        return x


def _chain(interpolant: Interpolant, name: str) -> DiscreteDiffusion:
    if not isinstance(interpolant, DiscreteDiffusion):
        raise RequestError(
            f"sampler {name}: needs a model trained on a chain of timesteps (objective ddpm), "
            f"not on {type(interpolant).__name__}; use euler or heun"
        )
    return interpolant
