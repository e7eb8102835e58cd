"""Learning a velocity: what rectified flow and flow matching share.

Join each noise to each image by a path x_t and ask the model for dx_t/dt. At one x_t many paths
cross; the squared error makes the model answer with their average, and following that average
from t = 0 to t = 1 carries the noise distribution to the data distribution (Lipman et al. 2022,
theorem 2). The objectives differ only in the path.

Shapes: N images, C channels, H x W pixels or latent cells.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dit_lab.interpolants import Interpolant
from dit_lab.objectives.time_sampling import quantile_function
from dit_lab.types import Batch, ModelCall, Prediction


class VelocityObjective:
    """Squared error of the velocity on an interpolant.

    time_sampling: "uniform", or "logit_normal" with `logit_mean` and `logit_std`.
    time_scale: the model receives `time_scale * t`; 1000 suits its sinusoids, public SiT weights
        were trained with 1.
    learn_sigma: the model has 2C output channels; the second half is ignored, as in SiT.
    """

    def __init__(
        self,
        interpolant: Interpolant,
        *,
        time_sampling: str,
        logit_mean: float,
        logit_std: float,
        time_scale: float,
        learn_sigma: bool,
    ) -> None:
        self.interpolant = interpolant
        self.time_scale = time_scale
        self.learn_sigma = learn_sigma
        self._quantile = quantile_function(
            time_sampling, logit_mean=logit_mean, logit_std=logit_std
        )

    def time_from_uniform(self, uniform: Tensor) -> Tensor:
        """u in [0, 1), (N,), to flow time t, (N,) float32."""
        return self._quantile(uniform.to(torch.float64)).to(torch.float32)

    def loss(self, predict: ModelCall, batch: Batch) -> dict[str, Tensor]:
        """{"loss": mean squared error of the velocity, (N,) float32}."""
        x = self.interpolant.interpolate(batch.data, batch.noise, batch.time)
        target = self.interpolant.velocity(batch.data, batch.noise, batch.time)
        output = self._velocity(predict(x, self.time_scale * batch.time))
        return {"loss": (output.float() - target).square().flatten(1).mean(1)}

    def model_time(self, t: float) -> float:
        """Flow time t to what the model receives."""
        return self.time_scale * t

    def prediction(self, output: Tensor, x: Tensor, t: float) -> Prediction:
        """Read a raw output (N, C or 2C, H, W) at x (N, C, H, W) and flow time t."""
        velocity = self._velocity(output).to(x.dtype)
        data, noise = self.interpolant.ends_from_velocity(velocity, x, t)
        return Prediction(data=data, noise=noise)

    def _velocity(self, output: Tensor) -> Tensor:
        return output.chunk(2, dim=1)[0] if self.learn_sigma else output
