"""Flow matching (Lipman et al. 2022) with a choice of paths and predictions.

The default is the conditional optimal-transport path (eq. 20-23): x_t = t * data +
(1 - (1 - sigma_min) t) * noise, so that at t = 1 each image is the mean of a Gaussian of standard
deviation sigma_min. With sigma_min = 0 this equals rectified flow exactly; with the default, the
results of the two should agree. The other paths and predictions are those of stochastic
interpolants (Albergo et al. 2023; Ma et al. 2024, SiT).
"""

from __future__ import annotations

from dit_lab.core.errors import RequestError
from dit_lab.core.interpolants import Interpolant, Linear, Trigonometric, VariancePreserving
from dit_lab.objectives.checks import check_flow_matching
from dit_lab.objectives.flow import FlowObjective, span

SIGMA_MIN = 1e-4


class FlowMatching(FlowObjective):
    """Flow matching. Options that are not listed here are those of `FlowObjective`.

    Args:
        path: "linear", "trigonometric" or "vp".
        sigma_min: noise left at t = 1 on the linear path; None means 1e-4.

    Raises:
        RequestError: an option is invalid or conflicts with another.
    """

    def __init__(
        self,
        *,
        path: str = "linear",
        sigma_min: float | None = None,
        prediction: str = "velocity",
        weighting: str = "none",
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
        check_flow_matching(path=path, sigma_min=sigma_min)
        super().__init__(
            _path(path, SIGMA_MIN if sigma_min is None else sigma_min, prediction, weighting),
            prediction=prediction,
            weighting=weighting,
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


def _path(name: str, sigma_min: float, prediction: str, weighting: str) -> Interpolant:
    if name == "linear":
        return Linear(sigma_min, **span(prediction, weighting))
    if name == "trigonometric":
        return Trigonometric(**span(prediction, weighting))
    if name == "vp":
        return VariancePreserving(**span(prediction, weighting))
    raise RequestError(f"path: unknown {name!r}; use linear, trigonometric or vp")
