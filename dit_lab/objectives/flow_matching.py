"""Flow matching with the conditional optimal-transport path (Lipman et al. 2022, eq. 20-23).

x_t = t * data + (1 - (1 - sigma_min) t) * noise: each image is the centre of a Gaussian of width
sigma_min at t = 1. With sigma_min = 0 this is rectified flow, number for number, and with the
default the two are expected to agree.
"""

from __future__ import annotations

from dit_lab.interpolants import Linear
from dit_lab.objectives.velocity import VelocityObjective


class FlowMatching(VelocityObjective):
    """Velocity on the path that stops at width `sigma_min`; else as `VelocityObjective`."""

    def __init__(
        self,
        *,
        sigma_min: float = 1e-4,
        time_sampling: str = "uniform",
        logit_mean: float = 0.0,
        logit_std: float = 1.0,
        time_scale: float = 1000.0,
        learn_sigma: bool = False,
    ) -> None:
        super().__init__(
            Linear(sigma_min),
            time_sampling=time_sampling,
            logit_mean=logit_mean,
            logit_std=logit_std,
            time_scale=time_scale,
            learn_sigma=learn_sigma,
        )
