"""Ancestral samplers: DDPM and DDIM.

At each step, the model's prediction of the data determines the next, less noisy x. DDPM draws it
from the Gaussian of one reverse step of a chain. DDIM combines the predicted data and the predicted
noise, and draws no noise if eta = 0.

Both can skip timesteps: a chain that visits only some of its timesteps is a shorter chain. Both can
evaluate the model at fewer steps than they take (`cache_interval`, see `reuse`).

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
from dit_lab.samplers.reuse import evaluate_every


class DDPMSampler:
    """Ancestral sampling (Ho et al. 2020, algorithm 2) on a respaced chain.

    The variance is that of the prediction: learned, or fixed by the objective.

    Args:
        steps: number of timesteps to visit.
        spacing: rule of `respacing.visited`, "even" or "stride".
        clip_data: clamp the predicted data to [-1, 1]; for pixels, not for latents.
        cache_interval: evaluate the model at every n-th step only, see `reuse`.
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
        """Map noise (N, C, H, W) to data (N, C, H, W); see `types.Sampler`.

        Raises:
            RequestError: the interpolant is not a chain of timesteps, or `steps` does not suit it.
        """
        chain = _chain(interpolant)
        predict = evaluate_every(self.cache_interval, predict, interpolant)
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

    Args:
        steps: number of timesteps to visit on a chain. Other paths are divided into equal steps of
            flow time; on straight paths and with eta = 0 this is Euler's method.
        eta: amount of noise in [0, 1]. 0 draws none, so that the same initial noise gives nearly
            the same image for any number of steps. 1 draws as much as DDPM with the posterior's
            variance.
        spacing: rule of `respacing.visited` on a chain, "even" or "stride".
        clip_data: clamp the predicted data to [-1, 1], and recompute the predicted noise from it.
        cache_interval: evaluate the model at every n-th step only, see `reuse`.

    Raises:
        RequestError: `eta` is not in [0, 1].
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
        """Map noise (N, C, H, W) to data (N, C, H, W); see `types.Sampler`."""
        predict = evaluate_every(self.cache_interval, predict, interpolant)
        times = self._times(interpolant)
        at = torch.tensor(times, dtype=torch.float64)
        alphas = [*interpolant.alpha(at).tolist(), 1.0]  # the last step ends in data without noise
        sigmas = [*interpolant.sigma(at).tolist(), 0.0]
        x = noise
        for step, t in enumerate(times):
            prediction = predict(x, t)
            data, direction = prediction.data, prediction.noise
            if self.clip_data:
                data = data.clamp(-1, 1)
                _, direction = interpolant.ends("data", data, x, t)
            alpha, sigma = alphas[step + 1], sigmas[step + 1]
            kept = sigma * alphas[step] / (sigmas[step] * alpha)  # of the ratio of noise to data
            fresh = (self.eta * sigma) ** 2 * (1 - kept**2)  # variance of the new noise
            x = alpha * data + math.sqrt(sigma**2 - fresh) * direction
            if fresh > 0:  # never at the last step, where sigma = 0
                x = x + math.sqrt(fresh) * draw_noise(step)
            if on_step is not None:
                on_step(step)
        return x

    def _times(self, interpolant: Interpolant) -> list[float]:
        """Return the flow times at which the model is evaluated, from noise to data."""
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
