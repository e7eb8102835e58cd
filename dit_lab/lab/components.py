"""The typed options of each component, by the class that its `_target_` names.

A class here mirrors the keyword arguments of that class; a test compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Optional

from omegaconf import MISSING

from dit_lab.lab.schema import number

# Annotations are evaluated by OmegaConf 2.3, which knows Optional[...] but not X | None.
# ruff: noqa: UP045


class Spacing(Enum):
    even = "even"
    stride = "stride"


class TimeSampling(Enum):
    uniform = "uniform"
    logit_normal = "logit_normal"


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
