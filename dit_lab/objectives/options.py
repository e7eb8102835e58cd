"""Options of the objectives. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

from dit_lab.core.calls import GUIDANCE, VELOCITY, HeadNeed, LossPasses, ModelNeeds
from dit_lab.core.errors import RequestError
from dit_lab.core.options import Component, option
from dit_lab.objectives.checks import (
    LOSS,
    check_ddpm,
    check_flow_matching,
    check_guidance_inside,
    check_loss,
    check_time_shift,
    check_weighting,
)

# Annotations are evaluated by OmegaConf 2.3, which knows Optional[...] but not X | None.
# ruff: noqa: UP045

TIME_SAMPLING = ("uniform", "logit_normal", "cosmap")
BETA_SCHEDULE = ("linear", "scaled_linear", "cosine")
CHAIN_PREDICTION = ("noise", "data", "v")
FIXED_VARIANCE = ("small", "large")
PATH = ("linear", "trigonometric", "vp")
FLOW_PREDICTION = ("velocity", "noise", "data", "score")
WEIGHTING = ("none", "velocity", "likelihood")
DERIVATIVE = ("jvp", "difference")
TARGET_WEIGHTS = ("average", "current")

FROM, UNTIL = "guidance_from", "guidance_until"
"""Names of the scalar inputs for the interval of guidance."""


def improved_needs(velocity_blocks: int) -> ModelNeeds:
    """Return what improved MeanFlow needs of its model."""
    return ModelNeeds(
        second_time=True,
        conditions=(GUIDANCE, FROM, UNTIL),
        heads=(HeadNeed(VELOCITY, after=-velocity_blocks, blocks=velocity_blocks),),
    )


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
class Times(Component):
    """Options of the flow times in training, and of the model's time and channels."""

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

    def check_together(self) -> None:
        super().check_together()
        check_time_shift(self.time_shift)


@dataclass
class Flow(Times, Learned):
    min_snr_gamma: Optional[float] = option(
        None, above=0, help="gamma of Min-SNR weighting, 5 in the paper; null: none", later=True
    )


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


@dataclass
class Unscaled(Times):
    """Options of few-step objectives: derivatives by time grow with the scale of the times."""

    time_scale: float = option(1.0, above=0, help="the model receives time_scale * t")


@dataclass
class LogitNormal(Unscaled):
    time_sampling: str = option("logit_normal", choices=TIME_SAMPLING, help="distribution of t")
    logit_mean: float = option(0.4, help="mean of logit(t) for time_sampling=logit_normal")


@dataclass
class TwoTimes(LogitNormal):
    """Options of objectives with the derivative of an average velocity."""

    equal_share: float = option(
        0.75, at_least=0, at_most=1, help="share of the images with s = t, trained by flow matching"
    )
    weight_power: float = option(
        1.0, at_least=0, at_most=1, help="power of the adaptive weight; 0: squared error"
    )
    weight_constant: float = option(
        1e-3, above=0, help="added to the squared norm in the adaptive weight"
    )
    derivative: str = option(
        "jvp", choices=DERIVATIVE, help="forward-mode differentiation, or a difference quotient"
    )

    @property
    def needs(self) -> ModelNeeds:
        return ModelNeeds(second_time=True)


@dataclass
class MeanFlow(TwoTimes):
    guidance_omega: float = option(
        1.0, above=0, help="guidance in the target: weight of the velocity; 1: none"
    )
    guidance_kappa: float = option(
        0.0, at_least=0, below=1, help="guidance in the target: weight of the prediction by label"
    )
    guidance_interval: list[float] = option(
        [0.2, 1.0], help="flow times with guidance in the target: [from, to]"
    )

    @property
    def passes(self) -> LossPasses:
        labelled = bool(self.guidance_kappa)
        unlabelled = labelled or self.guidance_omega != 1.0
        return LossPasses(plain=labelled + unlabelled, derivatives=1 - self.equal_share)

    def check_together(self) -> None:
        super().check_together()
        check_guidance_inside(
            self.guidance_omega, self.guidance_kappa, tuple(self.guidance_interval)
        )


@dataclass
class ImprovedMeanFlow(TwoTimes):
    equal_share: float = option(
        0.5, at_least=0, at_most=1, help="share of the images with s = t, trained by flow matching"
    )
    weight_constant: float = option(
        1e-2, above=0, help="added to the squared norm in the adaptive weight"
    )
    velocity_blocks: int = option(
        1, at_least=1, at_most=1_000, help="blocks of the second head, which predicts the velocity"
    )
    most_guidance: float = option(
        7.0, at_least=0, help="guidance scales are drawn from 1 to 1 + this"
    )
    guidance_power: float = option(
        1.0, at_least=0, help="beta of their density, proportional to scale^-beta"
    )

    @property
    def needs(self) -> ModelNeeds:
        return improved_needs(self.velocity_blocks)

    @property
    def passes(self) -> LossPasses:
        return LossPasses(plain=2, derivatives=1 - self.equal_share)


@dataclass
class Shortcut(Unscaled):
    bootstrap_every: int = option(
        8, at_least=1, help="one in this many images is trained on two half steps"
    )
    finest_steps: int = option(
        128, at_least=2, help="the smallest step is 1 / this number, a power of 2"
    )
    target_weights: str = option(
        "average", choices=TARGET_WEIGHTS, help="weights that take the half steps"
    )

    @property
    def needs(self) -> ModelNeeds:
        return ModelNeeds(second_time=True)

    @property
    def passes(self) -> LossPasses:
        return LossPasses(plain=2 / self.bootstrap_every)

    def check_together(self) -> None:
        super().check_together()
        if self.finest_steps & (self.finest_steps - 1):
            raise RequestError(f"finest_steps={self.finest_steps}: expected a power of 2")


@dataclass
class Consistency(LogitNormal):
    depends_on_end = True  # as its class

    logit_mean: float = option(1.1, help="mean of logit(t) for time_sampling=logit_normal")
    logit_std: float = option(
        2.0, above=0, help="standard deviation of logit(t) for time_sampling=logit_normal"
    )
    stages: int = option(8, at_least=1, help="stages in which the two times come together")
    stage_factor: float = option(2.0, above=1, help="factor between the stages")
    adjust_scale: float = option(8.0, at_least=0, help="k of the adjustment 1 + k sigmoid(-b e)")
    adjust_slope: float = option(1.0, at_least=0, help="b of the adjustment 1 + k sigmoid(-b e)")
    huber_c: float = option(0.0, at_least=0, help="c of the pseudo-Huber norm; 0: norm")

    @property
    def passes(self) -> LossPasses:
        return LossPasses(plain=1)


COMPONENTS: dict[str, dict[str, type[Component]]] = {
    "objective": {
        "dit_lab.objectives.ddpm.DDPM": DDPM,
        "dit_lab.objectives.rectified_flow.RectifiedFlow": RectifiedFlow,
        "dit_lab.objectives.flow_matching.FlowMatching": FlowMatching,
        "dit_lab.objectives.mean_flow.MeanFlow": MeanFlow,
        "dit_lab.objectives.improved_mean_flow.ImprovedMeanFlow": ImprovedMeanFlow,
        "dit_lab.objectives.shortcut.Shortcut": Shortcut,
        "dit_lab.objectives.consistency.Consistency": Consistency,
    }
}
