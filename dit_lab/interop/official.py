"""The original formats: DiT (Peebles & Xie 2022), SiT (Ma et al. 2024), and REPA's SiT.

The lab's model has the tensor names of DiT and SiT, so tensors are not converted. The meaning of
the weights differs: DiT predicts noise on a chain of timesteps, SiT predicts the velocity towards
data at unscaled flow times.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from dit_lab.core.discrete_diffusion import DiscreteDiffusion, make_betas
from dit_lab.core.errors import RequestError
from dit_lab.core.interpolants import Linear, Trigonometric, VariancePreserving
from dit_lab.core.types import Objective
from dit_lab.interop.adapter import Adapter
from dit_lab.interop.architecture import Architecture
from dit_lab.interop.files import Tensors, WeightsFile
from dit_lab.models.embeddings import TimeEmbedding
from dit_lab.objectives.ddpm import DDPM
from dit_lab.objectives.flow import FlowObjective

PROJECTORS = "projectors."
OUTPUT_WEIGHT, OUTPUT_BIAS = "final_layer.linear.weight", "final_layer.linear.bias"
TIME_WEIGHT = "t_embedder.mlp.0.weight"


class _OfClasses(Adapter):
    def refuse(self, architecture: Architecture, objective: Objective) -> None:
        super().refuse(architecture, objective)
        if architecture.num_classes == 0:
            raise RequestError("a model without classes: the original has none")


class DiTFormat(_OfClasses):
    """facebookresearch/DiT and fast-DiT: noise, learned variance, 1000 linear betas."""

    name = "dit"
    objective = "ddpm"

    def refuse(self, architecture: Architecture, objective: Objective) -> None:
        super().refuse(architecture, objective)
        if not isinstance(objective, DDPM) or objective.kind != "noise":
            raise RequestError("the original DiT predicts noise on a chain (objective=ddpm)")
        if not is_linear_chain(objective.interpolant):
            raise RequestError("the original DiT has 1000 timesteps of linear betas")


class SiTFormat(_OfClasses):
    """willisma/SiT: velocity towards data, unscaled time in [0, 1]."""

    name = "sit"
    code: ClassVar[str] = "SiT"  # the program that reads it
    objective = "rectified_flow"
    options: ClassVar[Mapping[str, Any]] = {"time_scale": 1.0}
    paths: ClassVar[Mapping[str, str]] = {"Linear": "linear", "GVP": "trigonometric", "VP": "vp"}

    def objective_of(self, file: WeightsFile) -> tuple[str, Mapping[str, Any]]:
        """Return the linear path with velocity, unless the training arguments differ."""
        linear = next(iter(self.paths))
        path, prediction = file.args.get("path_type", linear), file.args.get("prediction", "v")
        kind = "velocity" if prediction == "v" else prediction
        if (path, kind) == (linear, "velocity") or path not in self.paths:
            return self.objective, self.options
        flow = {"path": self.paths[path], "prediction": kind}
        if path == linear:
            flow["sigma_min"] = 0.0
        return "flow_matching", {**self.options, **flow}

    def refuse(self, architecture: Architecture, objective: Objective) -> None:
        super().refuse(architecture, objective)
        if not isinstance(objective, FlowObjective):
            raise RequestError(
                f"{self.code} supports flows only (objective=rectified_flow or flow_matching)"
            )
        if objective.time_scale != 1.0:
            raise RequestError(
                f"{self.code} uses unscaled time, this model was trained with "
                f"objective.time_scale={objective.time_scale:g}"
            )
        path = objective.interpolant
        known = isinstance(path, Trigonometric | VariancePreserving)
        if not known and not (isinstance(path, Linear) and path.sigma_min == 0):
            raise RequestError(f"{self.code}'s linear path has objective.sigma_min=0")


class REPAFormat(SiTFormat):
    """sihyun-yu/REPA: SiT with projectors for training only, and reversed time.

    Its time is 0 at data and 1 at noise, with the velocity towards noise. For the lab's convention,
    the output changes its sign and the first layer of the time embedding is rewritten from features
    of 1 - t to features of t: with frequencies f, cos((1 - t) f) = cos f cos(t f) + sin f sin(t f),
    and correspondingly for sin. This is exact up to float32 rounding.
    """

    name = "repa"
    paths: ClassVar[Mapping[str, str]] = {"linear": "linear", "cosine": "trigonometric"}

    def skipped(self, name: str) -> bool:
        return name.startswith(PROJECTORS)

    def to_ours(self, theirs: Tensors, architecture: Architecture) -> Tensors:
        turned = {OUTPUT_WEIGHT: -theirs[OUTPUT_WEIGHT], OUTPUT_BIAS: -theirs[OUTPUT_BIAS]}
        return {**theirs, **turned, TIME_WEIGHT: _time_reversed(theirs[TIME_WEIGHT])}

    def from_ours(self, ours: Tensors, architecture: Architecture) -> Tensors:
        return self.to_ours(ours, architecture)  # the conversion is its own inverse

    def refuse(self, architecture: Architecture, objective: Objective) -> None:
        """Refuse every export: REPA's code cannot load weights without projectors."""
        raise RequestError("REPA's code requires the projectors of its training; SiT's does not")


def _time_reversed(weight: Tensor) -> Tensor:
    """Convert a weight (D, 256) for features of 1 - t to one for features of t."""
    ones = TimeEmbedding.sinusoids(torch.ones(1)).double()
    cos, sin = ones.chunk(2, dim=1)  # cos f, sin f
    of_cos, of_sin = weight.double().chunk(2, dim=1)
    parts = (of_cos * cos + of_sin * sin, of_cos * sin - of_sin * cos)
    return torch.cat(parts, dim=1).to(weight.dtype)


def is_linear_chain(chain: DiscreteDiffusion) -> bool:
    """Return whether a chain is the original's: 1000 timesteps, linear betas from 1e-4 to 0.02."""
    return chain.betas.equal(make_betas("linear", 1000))
