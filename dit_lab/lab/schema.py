"""The typed shape of the configuration. Types and ranges only: the values live in conf/.

A component's class here mirrors the keyword arguments of the class that its `_target_` names; a
test compares the two. Nothing here imports torch, so a wrong key is refused in a second.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import Enum
from typing import Any, Optional

from omegaconf import MISSING

# Annotations are evaluated by OmegaConf 2.3, which knows Optional[...] but not X | None.
# ruff: noqa: UP045


def number(
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
) -> Any:
    """A field with bounds; in a user's own class, `Annotated[float, number(above=0)]`."""
    bounds = {"at_least": at_least, "above": above, "at_most": at_most, "below": below}
    given = {name: bound for name, bound in bounds.items() if bound is not None}
    return dataclasses.field(default=MISSING, metadata=given)


class Spacing(Enum):
    even = "even"
    stride = "stride"


class TimeSampling(Enum):
    uniform = "uniform"
    logit_normal = "logit_normal"


class MixedPrecision(Enum):
    no = "no"
    bf16 = "bf16"


class Backend(Enum):
    mlflow = "mlflow"
    none = "none"


# ---- components, by the class that they configure -----------------------------------------------


@dataclass
class Component:
    _target_: str = MISSING


@dataclass
class DiT(Component):
    patch_size: int = number(at_least=1)
    hidden_size: int = number(at_least=4)
    depth: int = number(at_least=1)
    num_heads: int = number(at_least=1)
    mlp_ratio: float = number(above=0)
    class_dropout_prob: float = number(at_least=0, below=1)
    activation_checkpointing: bool = MISSING


@dataclass
class DDPM(Component):
    num_timesteps: int = number(at_least=21)
    learn_sigma: bool = MISSING


@dataclass
class RectifiedFlow(Component):
    time_sampling: TimeSampling = MISSING
    logit_mean: float = MISSING
    logit_std: float = number(above=0)
    time_scale: float = number(above=0)
    learn_sigma: bool = MISSING


@dataclass
class FlowMatching(RectifiedFlow):
    sigma_min: float = number(at_least=0, below=1)


@dataclass
class Ancestral(Component):
    steps: int = number(at_least=1)
    spacing: Spacing = MISSING
    clip_data: bool = MISSING


@dataclass
class DDIM(Ancestral):
    eta: float = number(at_least=0, at_most=1)


@dataclass
class ODE(Component):
    steps: int = number(at_least=1)


@dataclass
class Dataset(Component):
    """What every dataset has: loader workers, and declarations to check against the data."""

    num_workers: int = number(at_least=0)
    num_classes: Optional[int] = number(at_least=0)
    image_size: Optional[int] = number(at_least=1)


@dataclass
class LabelledList(Dataset):
    root: str = MISSING
    horizontal_flip: bool = MISSING


@dataclass
class ImageFolder(Dataset):
    root: Optional[str] = MISSING
    horizontal_flip: bool = MISSING
    validation_share: float = number(above=0, below=1)


@dataclass
class AutoencoderKL(Component):
    path: str = MISSING


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


COMPONENTS: dict[str, type[Component]] = {
    "dit_lab.models.dit.DiT": DiT,
    "dit_lab.objectives.ddpm.DDPM": DDPM,
    "dit_lab.objectives.rectified_flow.RectifiedFlow": RectifiedFlow,
    "dit_lab.objectives.flow_matching.FlowMatching": FlowMatching,
    "dit_lab.samplers.ancestral.DDPMSampler": Ancestral,
    "dit_lab.samplers.ancestral.DDIMSampler": DDIM,
    "dit_lab.samplers.ode.Euler": ODE,
    "dit_lab.samplers.ode.Heun": ODE,
    "dit_lab.data.digits.Digits": Dataset,
    "dit_lab.data.labelled_list.LabelledList": LabelledList,
    "dit_lab.data.image_folder.ImageFolder": ImageFolder,
    "dit_lab.codecs.Identity": Component,
    "dit_lab.codecs.AutoencoderKL": AutoencoderKL,
    "torch.optim.AdamW": AdamW,
    "dit_lab.training.schedules.Constant": Constant,
    "dit_lab.training.schedules.Cosine": Cosine,
}

COMPONENT_GROUPS = ("model", "objective", "sampler", "dataset", "codec", "optimizer", "schedule")

GIVEN_IN_CODE = {
    "model": {"input_size", "in_channels", "num_classes", "learn_sigma", "generator"},
    "dataset": {"split", "seed"},
    "optimizer": {"params"},
}
"""Constructor arguments that the lab gives itself: they follow from the data and the run."""


# ---- everything that is no component ------------------------------------------------------------


@dataclass
class EMA:
    decays: list[float] = MISSING
    warmup: bool = MISSING


@dataclass
class Guidance:
    scale: Optional[float] = number(at_least=0)
    weight: Optional[float] = number(at_least=-1)
    interval: list[float] = MISSING
    channels: Any = MISSING  # "all" or a count


@dataclass
class Sample:
    num_images: int = number(at_least=1)
    labels: Optional[list[int]] = MISSING
    batch_size: int = number(at_least=1)
    seed: int = MISSING
    weights: str = MISSING


@dataclass
class Training:
    total_steps: int = number(at_least=1)
    global_batch_size: int = number(at_least=1)
    accumulation: int = number(at_least=1)
    clip_norm: Optional[float] = number(above=0)
    log_every_steps: int = number(at_least=1)
    checkpoint_every_steps: int = number(at_least=0)
    sample_every_steps: int = number(at_least=0)
    validate_every_steps: int = number(at_least=0)
    evaluate_every_steps: int = number(at_least=0)
    max_skipped_in_a_row: int = number(at_least=1)


@dataclass
class Precision:
    mixed_precision: MixedPrecision = MISSING


@dataclass
class Distributed:
    num_processes: int = number(at_least=1)


@dataclass
class Evaluation:
    loss_images: int = number(at_least=1)
    num_images: int = number(at_least=0)
    reference_images: int = number(at_least=1)
    seed: int = number(at_least=0)


@dataclass
class Tracking:
    backend: Backend = MISSING
    uri: Optional[str] = MISSING
    experiment: Optional[str] = MISSING


@dataclass
class Paths:
    root: str = MISSING


@dataclass
class TrainConfig:
    """`conf/train.yaml` and its groups; the components are checked by their own schema."""

    seed: int = number(at_least=0)
    name: Optional[str] = MISSING
    resume: str = MISSING  # auto, never, force, RUN or force:RUN
    trusted_modules: list[str] = MISSING
    model: Any = MISSING
    objective: Any = MISSING
    sampler: Any = MISSING
    dataset: Any = MISSING
    codec: Any = MISSING
    optimizer: Any = MISSING
    schedule: Any = MISSING
    ema: EMA = MISSING
    guidance: Guidance = MISSING
    sample: Sample = MISSING
    training: Training = MISSING
    precision: Precision = MISSING
    distributed: Distributed = MISSING
    evaluation: Evaluation = MISSING
    tracking: Tracking = MISSING
    paths: Paths = MISSING


@dataclass
class SampleConfig:
    """`conf/sample.yaml`: what may be chosen anew for a trained run."""

    run: str = MISSING
    out: str = MISSING
    trusted_modules: list[str] = MISSING
    sampler: Any = MISSING
    guidance: Guidance = MISSING
    sample: Sample = MISSING
    precision: Precision = MISSING
    paths: Paths = MISSING


@dataclass
class EvaluateConfig:
    """`conf/evaluate.yaml`: what may be chosen anew when a trained run is measured."""

    run: str = MISSING
    baselines: bool = MISSING
    trusted_modules: list[str] = MISSING
    sampler: Any = MISSING
    dataset: Any = MISSING
    codec: Any = MISSING
    guidance: Guidance = MISSING
    sample: Sample = MISSING
    precision: Precision = MISSING
    evaluation: Evaluation = MISSING
    paths: Paths = MISSING


ROOTS = {"train": TrainConfig, "sample": SampleConfig, "evaluate": EvaluateConfig}
