"""The typed options of each component.

A class here mirrors the keyword arguments of the class that `components.COMPONENTS` gives it for; a
test compares the two.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Optional

from omegaconf import MISSING

from dit_lab.lab.schema import number
from dit_lab.models.options import check_activation_checkpointing, check_layers
from dit_lab.objectives.options import check_ddpm, check_flow_matching, check_time_shift
from dit_lab.samplers.grid import check_grid, noisy_steps

# Annotations are evaluated by OmegaConf 2.3, which knows Optional[...] but not X | None.
# ruff: noqa: UP045


Norm = Enum("Norm", ["layer", "rms"])
MlpKind = Enum("MlpKind", ["gelu", "swiglu"])
Spacing = Enum("Spacing", ["even", "stride"])
TimeSampling = Enum("TimeSampling", ["uniform", "logit_normal", "cosmap"])
BetaSchedule = Enum("BetaSchedule", ["linear", "scaled_linear", "cosine"])
ChainPrediction = Enum("ChainPrediction", ["noise", "data", "v"])
FixedVariance = Enum("FixedVariance", ["small", "large"])
Path = Enum("Path", ["linear", "trigonometric", "vp"])
FlowPrediction = Enum("FlowPrediction", ["velocity", "noise", "data", "score"])
Weighting = Enum("Weighting", ["none", "velocity", "likelihood"])
Grid = Enum("Grid", ["uniform", "quadratic", "shifted", "given"])
MultistepGrid = Enum("MultistepGrid", ["log_snr", "uniform", "quadratic", "shifted", "given"])
Diffusion = Enum(
    "Diffusion", ["constant", "sbdm", "sigma", "linear", "decreasing", "increasing_decreasing"]
)
LastStep = Enum("LastStep", ["mean", "tweedie", "euler", "none"])
Solver = Enum("Solver", ["ode", "sde"])
Crop = Enum("Crop", ["centre", "random"])
Exif = Enum("Exif", ["ignore", "apply"])
OnBadImage = Enum("OnBadImage", ["error", "skip"])
Extractor = Enum("Extractor", ["pixels", "classifier", "inception", "dinov2"])
ClassExtractor = Enum("ClassExtractor", ["classifier", "inception"])
CodecDtype = Enum("CodecDtype", ["float32", "bfloat16", "float16"])


@dataclass
class Component:
    """What every component has. Where options must go together, `check` refuses those that do
    not, with a RequestError that names them without the group."""

    _target_: str = MISSING

    @staticmethod
    def check(options: Mapping[str, Any]) -> None:
        return None


@dataclass
class DiT(Component):
    patch_size: int = number(at_least=1)
    hidden_size: int = number(at_least=4)
    depth: int = number(at_least=1)
    num_heads: int = number(at_least=1)
    mlp_ratio: float = number(above=0)
    class_dropout_prob: float = number(at_least=0, below=1)
    norm: Norm = Norm.layer  # runs that were recorded before there was a choice have no such key
    mlp: MlpKind = MlpKind.gelu
    rope: bool = False
    qk_norm: bool = False
    activation_checkpointing: Any = MISSING  # "none", "selective" or a count

    @staticmethod
    def check(options: Mapping[str, Any]) -> None:
        width, heads = options["hidden_size"], options["num_heads"]
        if width % heads == 0:  # else that is refused
            names = ("norm", "mlp", "rope")
            check_layers(**{name: options[name] for name in names}, head_size=width // heads)
        check_activation_checkpointing(options["activation_checkpointing"])


@dataclass
class DDPM(Component):
    num_timesteps: int = number(at_least=21)
    beta_schedule: BetaSchedule = MISSING
    zero_terminal_snr: bool = MISSING
    prediction: ChainPrediction = MISSING
    learn_sigma: bool = MISSING
    rescale_bound: bool = MISSING
    fixed_variance: Optional[FixedVariance] = MISSING
    min_snr_gamma: Optional[float] = number(above=0)

    @staticmethod
    def check(options: Mapping[str, Any]) -> None:
        names = ("prediction", "learn_sigma", "rescale_bound", "fixed_variance",
                 "zero_terminal_snr", "min_snr_gamma")  # fmt: skip
        check_ddpm(**{name: options[name] for name in names})


@dataclass
class Flow(Component):
    time_sampling: TimeSampling = MISSING
    logit_mean: float = MISSING
    logit_std: float = number(above=0)
    time_shift: Any = MISSING  # a number, or "auto"
    time_scale: float = number(above=0)
    learn_sigma: bool = MISSING

    @staticmethod
    def check(options: Mapping[str, Any]) -> None:
        check_time_shift(options["time_shift"])


@dataclass
class RectifiedFlow(Flow):
    direction_weight: float = number(at_least=0)


@dataclass
class FlowMatching(Flow):
    path: Path = MISSING
    sigma_min: Optional[float] = number(at_least=0, below=1)
    prediction: FlowPrediction = MISSING
    weighting: Weighting = MISSING

    @staticmethod
    def check(options: Mapping[str, Any]) -> None:
        Flow.check(options)
        check_flow_matching(path=options["path"], sigma_min=options["sigma_min"])


@dataclass
class OptimalTransport(Component):
    group_images: int = number(at_least=2)
    within_class: bool = MISSING
    force: bool = MISSING


@dataclass
class Reflow(Component):
    pairs: Optional[str] = MISSING


# older runs recorded samplers without it
CACHE_INTERVAL: Any = dataclasses.field(default=1, metadata={"at_least": 1})


@dataclass
class Ancestral(Component):
    steps: int = number(at_least=1)
    spacing: Spacing = MISSING
    clip_data: bool = MISSING
    cache_interval: int = CACHE_INTERVAL


@dataclass
class DDIM(Ancestral):
    eta: float = number(at_least=0, at_most=1)


@dataclass
class Stepped(Component):
    steps: int = number(at_least=1)
    time_shift: float = number(above=0)
    times: Optional[list[float]] = MISSING


@dataclass
class FixedStep(Stepped):
    time_grid: Grid = MISSING

    @staticmethod
    def check(options: Mapping[str, Any]) -> None:
        _check_grid(options)


@dataclass
class EulerMaruyama(FixedStep):
    diffusion: Diffusion = MISSING
    diffusion_norm: float = number(at_least=0)
    last_step: LastStep = MISSING
    last_step_size: float = number(above=0, below=1)
    cache_interval: int = CACHE_INTERVAL

    @staticmethod
    def check(options: Mapping[str, Any]) -> None:
        noisy = noisy_steps(options["steps"], options["last_step"])
        _check_grid(options, after=options["steps"] - noisy)


@dataclass
class Multistep(Stepped):
    time_grid: MultistepGrid = MISSING

    @staticmethod
    def check(options: Mapping[str, Any]) -> None:
        _check_grid(options, rules=[rule.name for rule in MultistepGrid], after=1)


@dataclass
class DPMSolver(Multistep):
    solver: Solver = MISSING


@dataclass
class Dopri5(Component):
    rtol: float = number(above=0)
    atol: float = number(above=0)


@dataclass
class Dataset(Component):
    """What every dataset has: loader workers, and declarations to check against the data."""

    num_workers: int = number(at_least=0)
    num_classes: Optional[int] = number(at_least=0)
    image_size: Any = MISSING  # a number, or [height, width]


@dataclass
class ImageFiles(Dataset):
    root: Optional[str] = MISSING
    horizontal_flip: bool = MISSING
    crop: Crop = MISSING
    exif: Exif = MISSING
    on_bad_image: OnBadImage = MISSING


@dataclass
class LabelledList(ImageFiles):
    allow_outside: bool = MISSING


@dataclass
class ImageFolder(ImageFiles):
    validation_share: float = number(above=0, below=1)


@dataclass
class TorchvisionSet(Dataset):
    root: Optional[str] = MISSING
    download: bool = MISSING
    horizontal_flip: bool = MISSING


@dataclass
class Latents(Dataset):
    root: Optional[str] = MISSING
    images_root: Optional[str] = MISSING


@dataclass
class Metric(Component):
    """What every entry of the list of metrics has; null is training.evaluate_every_steps."""

    every_steps: Optional[int] = number(at_least=0)


@dataclass
class FeatureMetric(Metric):
    extractor: Extractor = MISSING


@dataclass
class Frechet(FeatureMetric):
    reference: Optional[str] = MISSING


@dataclass
class InceptionScore(Metric):
    extractor: ClassExtractor = MISSING


@dataclass
class Autoencoder(Component):
    path: str = MISSING
    dtype: CodecDtype = MISSING
    chunk_images: int = number(at_least=1)
    tiling: bool = MISSING


@dataclass
class AdamW(Component):
    lr: float = number(above=0)
    betas: list[float] = MISSING
    eps: float = number(above=0)
    weight_decay: float = number(at_least=0)
    fused: bool = MISSING


@dataclass
class Constant(Component):
    warmup_steps: int = number(at_least=0)


@dataclass
class Cosine(Constant):
    final_factor: float = number(at_least=0, at_most=1)


def _check_grid(options: Mapping[str, Any], **how: Any) -> None:
    names = ("steps", "time_grid", "time_shift", "times")
    check_grid(**{name: options[name] for name in names}, **how)
