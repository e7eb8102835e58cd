"""Ancestral samplers: walk from noise to data, one jump to a less noisy place at a time.

At each place the model's guess of the data says where the next jump leads. DDPM draws it from the
Gaussian of one step back on a chain, fresh noise included; DDIM points from the guess along the
noise that the model saw, and with eta = 0 draws nothing.

Both may leave out timesteps: a chain seen at some of its timesteps is a shorter chain. And both may
evaluate the model less often than they step (`cache_interval`, see `reuse`).
Shapes: N images, C channels, H x W pixels or latent cells.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from dit_lab.core.discrete_diffusion import DiscreteDiffusion
from dit_lab.core.errors import RequestError
from dit_lab.core.interpolants import Interpolant
from dit_lab.core.types import DrawNoise, Predict
from dit_lab.samplers.grid import TimeGrid
from dit_lab.samplers.respacing import visited
from dit_lab.samplers.reuse import asked_every


class DDPMSampler:
    """Ancestral sampling (Ho et al. 2020, algorithm 2) on a respaced chain.

    The variance is the one that the prediction states: learned, or fixed by the objective.
    `clip_data` clamps the guessed data to [-1, 1]: for pixels, not for latents.
    """

    def __init__(
        self,
        *,
        steps: int = 250,
        spacing: str = "even",
        clip_data: bool = False,
        cache_interval: int = 1,
    ) -> None:
        self.steps = steps
        self.spacing = spacing
        self.clip_data = clip_data
        self.cache_interval = cache_interval

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
        chain = _chain(interpolant)
        predict = asked_every(self.cache_interval, predict, interpolant)
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
    """DDIM (Song et al. 2020, eq. 12 and 16), on a respaced chain or any other path.

    eta = 0 draws no noise: the same noise gives the same image for any number of steps, nearly.
    eta = 1 draws as much as DDPM with the posterior's variance. On a chain `spacing` chooses the
    timesteps; other paths are walked in equal steps of flow time, where eta = 0 is Euler's method
    on straight paths. `clip_data` clamps the guessed data to [-1, 1] and keeps the noise consistent
    with it.
    """

    def __init__(
        self,
        *,
        steps: int = 50,
        eta: float = 0.0,
        spacing: str = "stride",
        clip_data: bool = False,
        cache_interval: int = 1,
    ) -> None:
        if not 0 <= eta <= 1:
            raise RequestError(f"eta: {eta} is not in [0, 1]")
        self.steps = steps
        self.eta = eta
        self.spacing = spacing
        self.clip_data = clip_data
        self.cache_interval = cache_interval

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
        predict = asked_every(self.cache_interval, predict, interpolant)
        times = self._times(interpolant)
        at = torch.tensor(times, dtype=torch.float64)
        alphas = [*interpolant.alpha(at).tolist(), 1.0]  # after the last step there is only data
        sigmas = [*interpolant.sigma(at).tolist(), 0.0]
        x = noise
        for step, t in enumerate(times):
            prediction = predict(x, t)
            data, direction = prediction.data, prediction.noise
            if self.clip_data:
                data = data.clamp(-1, 1)
                _, direction = interpolant.ends("data", data, x, t)
            alpha, sigma = alphas[step + 1], sigmas[step + 1]
            kept = sigma * alphas[step] / (sigmas[step] * alpha)  # of the noise's share of x
            fresh = (self.eta * sigma) ** 2 * (1 - kept**2)  # variance
            x = alpha * data + math.sqrt(sigma**2 - fresh) * direction
            if fresh > 0:  # never at the last step, where sigma = 0
                x = x + math.sqrt(fresh) * draw_noise(step)
            if on_step is not None:
                on_step(step)
        return x

    def _times(self, interpolant: Interpolant) -> list[float]:
        """Where the model is asked, from noise to data."""
        if isinstance(interpolant, DiscreteDiffusion):
            timesteps = visited(self.spacing, interpolant.num_timesteps, self.steps)
            return [interpolant.flow_time(timestep) for timestep in reversed(timesteps)]
        return TimeGrid(steps=self.steps).over(interpolant.t_min, interpolant.t_max)[:-1]


def _chain(interpolant: Interpolant) -> DiscreteDiffusion:
    if not isinstance(interpolant, DiscreteDiffusion):
        raise RequestError(
            "sampler ddpm: needs a model trained on a chain of timesteps (objective ddpm), not on "
            f"{type(interpolant).__name__}; ddim with eta=1 does the same on any path"
        )
    return interpolant
