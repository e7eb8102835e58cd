"""Base class of the flow objectives, rectified flow and flow matching.

A path x_t joins each noise to an image, and the model predicts the velocity dx_t/dt or an
equivalent quantity. Many paths pass through one x_t, and the squared error makes the model predict
the mean of their velocities. Integrating this mean from t = 0 to t = 1 carries the noise
distribution to the data distribution (Lipman et al. 2022, theorem 2).

Shapes: N images, C channels, H x W pixels or latent cells.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from dit_lab.core.errors import RequestError
from dit_lab.core.interpolants import Interpolant, shift_time
from dit_lab.core.types import Batch, ModelCall, Prediction
from dit_lab.objectives.checks import check_loss, check_time_shift, check_weighting
from dit_lab.objectives.elementwise import cost
from dit_lab.objectives.time_sampling import automatic_shift, quantile_function

EDGE = 1e-3
"""Distance in flow time from an end at which a quantity diverges, as in SiT."""

TO_NOISE_ERROR = {
    "noise": (0, 0, 0),
    "data": (0, -2, 2),
    "score": (0, 2, 0),
    "velocity": (-2, 2, 0),
}
"""Factor from the squared error of a prediction to that of the noise at fixed x: exponents of
g^2 / 2, sigma and alpha.
"""

FROM_NOISE_ERROR = {"velocity": (2, -2, 0), "likelihood": (1, -2, 0)}
"""Factor from the squared error of the noise to the loss of a weighting, as the same exponents."""


def span(prediction: str, weighting: str) -> dict[str, float]:
    """Return t_min and t_max: the flow times at which a prediction determines both data and noise.

    Noise and score do not determine the data where alpha = 0, nor data the noise where sigma = 0.
    The score and the weightings can diverge there. The span keeps `EDGE` away from such ends.
    """
    both = prediction == "score" or weighting not in ("none", prediction)
    return {
        "t_min": EDGE if both or prediction == "noise" else 0.0,
        "t_max": 1 - EDGE if both or prediction == "data" else 1.0,
    }


class FlowObjective:
    """Loss of a prediction on an interpolant. Implements `types.Objective`.

    Args:
        interpolant: the path from noise (t = 0) to data (t = 1).
        prediction: "velocity", "noise", "data" or "score"; the error of a score is multiplied by
            sigma.
        weighting: "none"; "velocity", the squared error of the velocity; or "likelihood", g^2 / 2
            times the squared error of the score (Song et al. 2021, "Maximum Likelihood Training of
            Score-Based Diffusion Models", eq. 7). Both as in Ma et al. 2024, SiT.
        min_snr_gamma: weight the squared error of the equivalent data prediction by min(SNR, gamma)
            with SNR = (alpha / sigma)^2 (Hang et al. 2023, "Efficient Diffusion Training via
            Min-SNR", gamma 5); on the straight path, min(t^2, gamma (1 - t)^2) for a velocity.
        loss, huber_c: loss of the error, see `elementwise.cost`.
        direction_weight: weight of an additional term, 1 - cos(velocity, target) over the channels
            of each cell (Yao et al. 2024, "FasterDiT", section 3.3). With one channel the cosine
            is a sign and has no gradient.
        time_sampling: "uniform", "logit_normal" with `logit_mean` and `logit_std`, or "cosmap".
        time_shift: above 1, moves the times towards noise (Esser et al. 2024, eq. 23); "auto" is
            the `automatic_shift` of `latent_shape`.
        time_scale: the model receives `time_scale * t`. 1000 suits the sinusoids of its time
            embedding; public SiT weights were trained with 1.
        learn_sigma: the model has 2C output channels; the second half is ignored, as in SiT.
        latent_shape: (C, H, W), for `time_shift="auto"`.

    Raises:
        RequestError: an option is invalid or conflicts with another.
    """

    def __init__(
        self,
        interpolant: Interpolant,
        *,
        prediction: str = "velocity",
        weighting: str = "none",
        min_snr_gamma: float | None = None,
        loss: str = "squared",
        huber_c: float | None = None,
        direction_weight: float = 0.0,
        time_sampling: str,
        logit_mean: float,
        logit_std: float,
        time_shift: float | str,
        time_scale: float,
        learn_sigma: bool,
        latent_shape: tuple[int, int, int] | None,
    ) -> None:
        _known("prediction", prediction, TO_NOISE_ERROR)
        _known("weighting", weighting, ("none", *FROM_NOISE_ERROR))
        check_weighting(weighting=weighting, min_snr_gamma=min_snr_gamma)
        check_loss(loss=loss, huber_c=huber_c)
        self.interpolant = interpolant
        self.kind = prediction
        self.weighting = weighting
        self.min_snr_gamma = min_snr_gamma
        self._squares = loss == "squared"
        self._cost = partial(cost, loss=loss, huber_c=huber_c)
        self.direction_weight = direction_weight
        self.time_shift = _shift(time_shift, latent_shape)
        self.time_scale = time_scale
        self.learn_sigma = learn_sigma
        self._quantile = quantile_function(
            time_sampling, logit_mean=logit_mean, logit_std=logit_std
        )

    def time_from_uniform(self, uniform: Tensor) -> Tensor:
        """Map uniform numbers u in [0, 1), (N,), to flow times in [t_min, t_max], (N,) float32."""
        t = shift_time(self._quantile(uniform.to(torch.float64)), self.time_shift)
        low, high = self.interpolant.t_min, self.interpolant.t_max
        return (low + (high - low) * t).to(torch.float32)

    def loss(self, predict: ModelCall, batch: Batch) -> dict[str, Tensor]:
        """Return the loss terms of each image.

        Returns:
            Terms by name, each (N,) float32. "loss", the weighted mean error, is minimised. With
            `direction_weight`, it is the sum of "mse" (the weighted error, whatever `loss` is) and
            the weighted "direction".
        """
        x = self.interpolant.interpolate(batch.data, batch.noise, batch.time)
        return self.loss_of(predict(x, self.time_scale * batch.time), batch)

    def loss_of(self, output: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return the loss terms of a raw output (N, C or 2C, H, W) at the times of a batch."""
        target = self.interpolant.target(self.kind, batch.data, batch.noise, batch.time)
        value = self._value(output).float()
        if self._squares:
            loss = self._weight(batch.time) * (value - target).square().flatten(1).mean(1)
        else:
            loss = self._pseudo_huber(value - target, batch.time)
        if not self.direction_weight:
            return {"loss": loss}
        direction = (1 - cosine_similarity(value, target, dim=1)).flatten(1).mean(1)
        total = loss + self.direction_weight * direction
        return {"loss": total, "mse": loss, "direction": direction}

    def _pseudo_huber(self, error: Tensor, t: Tensor) -> Tensor:
        """Return the weighted Huber loss (N,) of prediction errors."""
        weight = self._weight(t)
        if self.kind == "score":  # sigma * error is bounded as sigma goes to 0
            sigma = self.interpolant.sigma(t)
            error = sigma.reshape(-1, *[1] * (error.dim() - 1)) * error
            weight = weight / sigma.square()
        return weight * self._cost(error).flatten(1).mean(1)

    def _weight(self, t: Tensor) -> Tensor | float:
        """Return the weight of the squared prediction error, (N,) or 1."""
        if self.min_snr_gamma is not None:
            return self._min_snr(t, self.min_snr_gamma)
        if self.weighting == "none":
            return self.interpolant.sigma(t).square() if self.kind == "score" else 1.0
        if self.weighting == self.kind:
            return 1.0
        path = self.interpolant
        pairs = zip(TO_NOISE_ERROR[self.kind], FROM_NOISE_ERROR[self.weighting], strict=True)
        powers = [sum(pair) for pair in pairs]
        diffusion, sigma, alpha = (
            share(t).pow(power)
            for share, power in zip((path.diffusion, path.sigma, path.alpha), powers, strict=True)
        )
        return diffusion * sigma * alpha

    def _min_snr(self, t: Tensor, gamma: float) -> Tensor:
        """Return the weight (N,) that amounts to a weight min(SNR, gamma) of the data error."""
        path = self.interpolant
        alpha, sigma = path.alpha(t), path.sigma(t)
        if self.kind == "data":
            return (alpha / sigma).square().clamp(max=gamma)
        # velocity error = (alpha_dot - sigma_dot alpha / sigma) * data error
        if self.kind == "velocity":
            turn = path.alpha_dot(t) * sigma - path.sigma_dot(t) * alpha
            return torch.minimum(alpha.square(), gamma * sigma.square()) / turn.square()
        of_noise = (gamma * (sigma / alpha).square()).clamp(max=1.0)
        return of_noise if self.kind == "noise" else of_noise * sigma.square()

    def model_time(self, t: float) -> float:
        """Return the model time `time_scale * t` of flow time t."""
        return self.time_scale * t

    def prediction(self, output: Tensor, x: Tensor, t: float) -> Prediction:
        """Interpret a raw output (N, C or 2C, H, W) at x (N, C, H, W) and flow time t."""
        data, noise = self.interpolant.ends(self.kind, self._value(output).to(x.dtype), x, t)
        return Prediction(data=data, noise=noise)

    def _value(self, output: Tensor) -> Tensor:
        return output.chunk(2, dim=1)[0] if self.learn_sigma else output


def _known(option: str, value: str, allowed: Iterable[str]) -> None:
    if value not in allowed:
        raise RequestError(f"{option}: unknown {value!r}; use {', '.join(allowed)}")


def _shift(shift: float | str, latent_shape: tuple[int, int, int] | None) -> float:
    check_time_shift(shift)
    if shift != "auto":
        return float(shift)
    if latent_shape is None:
        raise RequestError("time_shift=auto: needs latent_shape, (channels, height, width)")
    return automatic_shift(latent_shape)
