"""DDPM (Ho et al. 2020) with the learned variance of Nichol & Dhariwal 2021.

A chain of small steps turns data into noise, and the model learns the Gaussian reverse steps. The
mean of a reverse step follows from the model's prediction of the noise (or of data or v), which is
trained with the squared error. Its variance lies between two known bounds; the model predicts where
and is trained with the variational bound, whose gradient does not reach the prediction of the mean.

Shapes: N images, C channels, H x W pixels or latent cells, T timesteps.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from dit_lab.core.discrete_diffusion import DiscreteDiffusion, make_betas
from dit_lab.core.errors import RequestError
from dit_lab.core.interpolants import Shares
from dit_lab.core.types import Batch, ModelCall, Prediction
from dit_lab.objectives.bound import bound_in_bits
from dit_lab.objectives.checks import check_ddpm, check_loss
from dit_lab.objectives.elementwise import cost


class DDPM:
    """Prediction of noise, data or v on a discrete diffusion chain. Implements `types.Objective`.

    Args:
        num_timesteps: length T of the chain.
        beta_schedule: "linear" (Ho et al. 2020), "scaled_linear" (Rombach et al. 2022) or "cosine"
            (Nichol & Dhariwal 2021).
        zero_terminal_snr: make the last timestep pure noise (Lin et al. 2024); not for noise
            prediction.
        prediction: "noise" (Ho et al. 2020, eq. 14), "data", or "v" (Salimans & Ho 2022, app. D).
        learn_sigma: the model has 2C output channels, the second half for the variance: -1 is the
            posterior's variance and 1 is beta. The loss is then the hybrid loss: squared error plus
            variational bound.
        rescale_bound: multiply the bound by T / 1000, so that lambda = 0.001 for any T (Nichol &
            Dhariwal 2021, eq. 16). Otherwise lambda = 1 / T, as in the original DiT; the two are
            equal at T = 1000.
        fixed_variance: without `learn_sigma`, "small" (the posterior's variance; also if None) or
            "large" (beta); Ho et al. 2020, section 3.2.
        min_snr_gamma: weight the squared error of the data by min(SNR, gamma) (Hang et al. 2023,
            "Efficient Diffusion Training via Min-SNR", gamma 5); None for no weighting.
        loss, huber_c: loss of the prediction error, see `elementwise.cost`; not of the bound.

    Raises:
        RequestError: an option is invalid or conflicts with another.
    """

    def __init__(
        self,
        *,
        num_timesteps: int = 1000,
        beta_schedule: str = "linear",
        zero_terminal_snr: bool = False,
        prediction: str = "noise",
        learn_sigma: bool = True,
        rescale_bound: bool = False,
        fixed_variance: str | None = None,
        min_snr_gamma: float | None = None,
        loss: str = "squared",
        huber_c: float | None = None,
    ) -> None:
        check_loss(loss=loss, huber_c=huber_c)
        check_ddpm(
            prediction=prediction,
            learn_sigma=learn_sigma,
            fixed_variance=fixed_variance,
            rescale_bound=rescale_bound,
            zero_terminal_snr=zero_terminal_snr,
            min_snr_gamma=min_snr_gamma,
        )
        if prediction not in ERROR_PER_DATA_ERROR:
            raise RequestError(
                f"prediction: unknown {prediction!r}; use {', '.join(ERROR_PER_DATA_ERROR)}"
            )
        if fixed_variance not in (None, "small", "large"):
            raise RequestError(f"fixed_variance: unknown {fixed_variance!r}; use small or large")
        betas = make_betas(beta_schedule, num_timesteps, zero_terminal_snr=zero_terminal_snr)
        self.interpolant = DiscreteDiffusion(betas)
        self.kind = prediction
        self.learn_sigma = learn_sigma
        self.min_snr_gamma = min_snr_gamma
        self._squares = loss == "squared"
        self._cost = partial(cost, loss=loss, huber_c=huber_c)
        self._bound_weight = num_timesteps / 1000 if rescale_bound else 1.0
        self._fixed_fraction = 1.0 if fixed_variance == "large" else 0.0

    def time_from_uniform(self, uniform: Tensor) -> Tensor:
        """Map uniform numbers u in [0, 1), (N,), to timesteps floor(u T), (N,) int64."""
        return (uniform.to(torch.float64) * self.interpolant.num_timesteps).long()

    def loss(self, predict: ModelCall, batch: Batch) -> dict[str, Tensor]:
        """Return the loss terms of each image.

        Returns:
            Terms by name, each (N,) float32. "loss" is minimised. "mse" is the unweighted squared
            error, also if `loss="huber"` puts the Huber loss in its place in "loss". With
            `learn_sigma`, "vb" is the term of the variational bound in bits per dimension, and
            "loss" the hybrid loss (Nichol & Dhariwal 2021, eq. 16).
        """
        x = self.interpolant.shares_at(batch.time, batch.data).mix(batch.data, batch.noise)
        return self.loss_of(predict(x, batch.time.float()), batch)

    def loss_of(self, output: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return the loss terms of a raw output (N, C or 2C, H, W) at the times of a batch."""
        shares = self.interpolant.shares_at(batch.time, batch.data)
        x = shares.mix(batch.data, batch.noise)
        value, variance = self._split(output.float())
        target = shares.target(self.kind, batch.data, batch.noise)
        error = value - target
        mse = error.square().flatten(1).mean(1)
        charged = mse if self._squares else self._cost(error).flatten(1).mean(1)
        weighted = charged if self.min_snr_gamma is None else self._weight(shares) * charged
        if variance is None:
            return {"loss": weighted, "mse": mse}
        data, _ = shares.ends(self.kind, value.detach(), x)
        vb = bound_in_bits(self.interpolant, batch.data, x, data, variance, batch.time)
        return {"loss": weighted + self._bound_weight * vb, "mse": mse, "vb": vb}

    def _weight(self, shares: Shares) -> Tensor:
        """Return the weight (N,) that amounts to a weight min(SNR, gamma) of the data error.

        Hang et al. 2023, section 3.4 and appendix: divided by SNR for noise, by SNR + 1 for v.
        """
        snr = (shares.alpha / shares.sigma).square().flatten()
        return snr.clamp(max=self.min_snr_gamma) / ERROR_PER_DATA_ERROR[self.kind](snr)

    def model_time(self, t: float) -> float:
        """Return the timestep of flow time t, a fraction between grid points."""
        return self.interpolant.timestep(t)

    def prediction(self, output: Tensor, x: Tensor, t: float) -> Prediction:
        """Interpret a raw output (N, C or 2C, H, W) at x (N, C, H, W) and flow time t."""
        value, variance = self._split(output.to(x.dtype))
        data, noise = self.interpolant.ends(self.kind, value, x, t)
        fraction = self._fixed_fraction if variance is None else variance
        return Prediction(data=data, noise=noise, variance_fraction=fraction)

    def _split(self, output: Tensor) -> tuple[Tensor, Tensor | None]:
        """Split a raw output into prediction and variance fraction; [-1, 1] becomes [0, 1]."""
        if not self.learn_sigma:
            return output, None
        value, variance = output.chunk(2, dim=1)
        return value, (variance + 1) / 2


ERROR_PER_DATA_ERROR: dict[str, Callable[[Tensor], Tensor]] = {
    "noise": lambda snr: snr,
    "data": torch.ones_like,
    "v": lambda snr: snr + 1,
}
"""Ratio of the squared error of each prediction to that of the data at fixed x, as a function of
the SNR.
"""
