"""Rectified flow (Liu et al. 2022, "Flow Straight and Fast"): straight paths from noise to data.

x_t = t * data + (1 - t) * noise, so the velocity is data - noise. SiT's linear path (Ma et al.
2024) is the same.
"""

from __future__ import annotations

from dit_lab.core.interpolants import Linear
from dit_lab.objectives.flow import FlowObjective


class RectifiedFlow(FlowObjective):
    """Velocity prediction on the straight path; the options are those of `FlowObjective`."""

    def __init__(
        self,
        *,
        direction_weight: float = 0.0,
        time_sampling: str = "uniform",
        logit_mean: float = 0.0,
        logit_std: float = 1.0,
        time_shift: float | str = 1.0,
        time_scale: float = 1000.0,
        learn_sigma: bool = False,
        min_snr_gamma: float | None = None,
        loss: str = "squared",
        huber_c: float | None = None,
        latent_shape: tuple[int, int, int] | None = None,
    ) -> None:
        super().__init__(
            Linear(),
            direction_weight=direction_weight,
            time_sampling=time_sampling,
            logit_mean=logit_mean,
            logit_std=logit_std,
            time_shift=time_shift,
            time_scale=time_scale,
            learn_sigma=learn_sigma,
            min_snr_gamma=min_snr_gamma,
            loss=loss,
            huber_c=huber_c,
            latent_shape=latent_shape,
        )
