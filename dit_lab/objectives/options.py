"""Options of the objectives and checks of their combinations. Torch-free.

The configuration is checked with them before anything is built, and so are the objectives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

from dit_lab.core.errors import RequestError
from dit_lab.core.options import Component, option

# Annotations are evaluated by OmegaConf 2.3, which knows Optional[...] but not X | None.
# ruff: noqa: UP045

TIME_SAMPLING = ("uniform", "logit_normal", "cosmap")
BETA_SCHEDULE = ("linear", "scaled_linear", "cosine")
CHAIN_PREDICTION = ("noise", "data", "v")
FIXED_VARIANCE = ("small", "large")
PATH = ("linear", "trigonometric", "vp")
FLOW_PREDICTION = ("velocity", "noise", "data", "score")
WEIGHTING = ("none", "velocity", "likelihood")
LOSS = ("squared", "huber")


@dataclass
class Learned(Component):
    """Options of every objective: the loss of an error."""

    loss: str = option(
        "squared",
        choices=LOSS,
        help="squared error, or pseudo-Huber loss, which is linear for outliers",
        later=True,
    )
    huber_c: Optional[float] = option(
        None, above=0, help="error at which loss=huber becomes linear; null: 0.1",
        later=True,
    )  # fmt: skip

    def check_together(self) -> None:
        check_loss(loss=self.loss, huber_c=self.huber_c)


@dataclass
class DDPM(Learned):
    num_timesteps: int = option(
        1000, at_least=21, at_most=100_000, help="number of timesteps T of the chain"
    )
    beta_schedule: str = option("linear", choices=BETA_SCHEDULE, help="schedule of the betas")
    zero_terminal_snr: bool = option(
        False, help="true: the last timestep is pure noise; for prediction=v or data"
    )
    prediction: str = option("noise", choices=CHAIN_PREDICTION, help="what the model predicts")
    learn_sigma: bool = option(True, help="true: learn the variance too, by the variational bound")
    rescale_bound: bool = option(False, help="true: multiply the bound by num_timesteps / 1000")
    fixed_variance: Optional[str] = option(
        None, choices=FIXED_VARIANCE, help="variance with learn_sigma=false; null: small"
    )
    min_snr_gamma: Optional[float] = option(
        None, above=0, help="gamma of Min-SNR weighting, 5 in the paper; null: none"
    )

    def check_together(self) -> None:
        super().check_together()
        check_ddpm(
            prediction=self.prediction,
            learn_sigma=self.learn_sigma,
            fixed_variance=self.fixed_variance,
            rescale_bound=self.rescale_bound,
            zero_terminal_snr=self.zero_terminal_snr,
            min_snr_gamma=self.min_snr_gamma,
        )


@dataclass
class Flow(Learned):
    time_sampling: str = option("uniform", choices=TIME_SAMPLING, help="distribution of t")
    logit_mean: float = option(0.0, help="mean of logit(t) for time_sampling=logit_normal")
    logit_std: float = option(
        1.0, above=0, help="standard deviation of logit(t) for time_sampling=logit_normal"
    )
    time_shift: Any = option(1.0, help="above 1: more noise; auto: sqrt(values of a latent / 4096)")
    time_scale: float = option(1000.0, above=0, help="the model receives time_scale * t")
    learn_sigma: bool = option(
        False, help="true: 2C output channels as in SiT, half of them unused"
    )
    min_snr_gamma: Optional[float] = option(
        None, above=0, help="gamma of Min-SNR weighting, 5 in the paper; null: none", later=True
    )

    def check_together(self) -> None:
        super().check_together()
        check_time_shift(self.time_shift)


@dataclass
class RectifiedFlow(Flow):
    direction_weight: float = option(
        0.0, at_least=0, help="weight of 1 - cos(velocity, target) in the loss"
    )


@dataclass
class FlowMatching(Flow):
    path: str = option("linear", choices=PATH, help="interpolant between noise and data")
    sigma_min: Optional[float] = option(
        None, at_least=0, below=1, help="noise at t = 1 of path=linear; null: 1e-4"
    )
    prediction: str = option("velocity", choices=FLOW_PREDICTION, help="what the model predicts")
    weighting: str = option("none", choices=WEIGHTING, help="weighting of the loss over t")

    def check_together(self) -> None:
        super().check_together()
        check_flow_matching(path=self.path, sigma_min=self.sigma_min)
        check_weighting(weighting=self.weighting, min_snr_gamma=self.min_snr_gamma)


COMPONENTS: dict[str, dict[str, type[Component]]] = {
    "objective": {
        "dit_lab.objectives.ddpm.DDPM": DDPM,
        "dit_lab.objectives.rectified_flow.RectifiedFlow": RectifiedFlow,
        "dit_lab.objectives.flow_matching.FlowMatching": FlowMatching,
    }
}


def check_ddpm(
    *,
    prediction: str,
    learn_sigma: bool,
    fixed_variance: str | None,
    rescale_bound: bool,
    zero_terminal_snr: bool,
    min_snr_gamma: float | None,
) -> None:
    """Raise RequestError if options of DDPM conflict."""
    if zero_terminal_snr and prediction == "noise":
        raise RequestError(
            "prediction=noise: with zero_terminal_snr the last timestep is pure noise, where a "
            "predicted noise does not determine the data; use prediction=v or prediction=data"
        )
    if zero_terminal_snr and min_snr_gamma is not None:
        raise RequestError(
            f"min_snr_gamma={min_snr_gamma:g}: gives weight 0 to a timestep without signal, so "
            "sampling would start at an untrained timestep; use it or zero_terminal_snr"
        )
    if learn_sigma and fixed_variance is not None:
        raise RequestError(
            f"fixed_variance={fixed_variance}: not with learn_sigma=true, which learns the "
            "variance; use learn_sigma=false"
        )
    if rescale_bound and not learn_sigma:
        raise RequestError(
            "rescale_bound=true: there is no bound in the loss with learn_sigma=false; use "
            "rescale_bound=false"
        )


def check_flow_matching(*, path: str, sigma_min: float | None) -> None:
    """Raise RequestError if `sigma_min` is set for a path other than the linear one."""
    if path != "linear" and sigma_min is not None:
        raise RequestError(
            f"sigma_min={sigma_min:g}: belongs to path=linear; path={path} has none, leave it null"
        )


def check_weighting(*, weighting: str, min_snr_gamma: float | None) -> None:
    """Raise RequestError if both a weighting and `min_snr_gamma` are set."""
    if weighting != "none" and min_snr_gamma is not None:
        raise RequestError(
            f"min_snr_gamma={min_snr_gamma:g}: is a weighting itself; use it or "
            f"weighting={weighting}"
        )


def check_loss(*, loss: str, huber_c: float | None) -> None:
    """Raise RequestError for an unknown loss, or if `huber_c` is set without the Huber loss."""
    if loss not in LOSS:
        raise RequestError(f"loss={loss}: expected {' or '.join(LOSS)}")
    if loss == "squared" and huber_c is not None:
        raise RequestError(f"huber_c={huber_c:g}: belongs to loss=huber; give both, or neither")


def check_time_shift(shift: float | str) -> None:
    """Raise RequestError unless the shift is a number above 0 or "auto"."""
    number = isinstance(shift, int | float) and not isinstance(shift, bool)
    if shift != "auto" and not (number and float(shift) > 0):
        raise RequestError(f"time_shift={shift}: expected a number above 0, or auto")
