"""The originals: DiT (Peebles & Xie 2022) and SiT (Ma et al. 2024), and SiT as REPA trains it.

The lab's model has the names of DiT and SiT, so their tensors pass as they are. What differs is
what the weights mean: DiT's predict noise on a chain of timesteps, SiT's the velocity towards data
at flow times that are not scaled.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from dit_lab.chain import DiscreteDiffusion, make_betas
from dit_lab.interop.architecture import Architecture, Shape, Shapes, inferred
from dit_lab.interop.files import Tensors, WeightsFile
from dit_lab.interpolants import Linear, Trigonometric, VariancePreserving
from dit_lab.objectives.ddpm import DDPM
from dit_lab.objectives.flow import FlowObjective
from dit_lab.types import Objective, RequestError


class Official:
    """What the formats with the original's names share."""

    name: ClassVar[str]
    objective: ClassVar[str]  # the group's member that the weights were trained with
    options: ClassVar[Mapping[str, Any]] = {}  # of it

    def objective_of(self, file: WeightsFile) -> tuple[str, Mapping[str, Any]]:
        """The objective's group member, and its options, that the weights were trained with."""
        return self.objective, self.options

    def data_of(self, file: WeightsFile) -> Mapping[str, Any]:
        """What is known of the images besides their size: `class_names`, `levels`."""
        return {}

    def architecture(self, file: WeightsFile, shapes: Shapes) -> Architecture:
        """What the weights belong to; 0 heads where nothing tells. Raises RequestError."""
        return inferred(shapes)

    def expected(self, architecture: Architecture) -> dict[str, Shape]:
        """Name -> shape of every tensor in a file of this format."""
        return architecture.shapes()

    def skipped(self, name: str) -> bool:
        """Whether a tensor of the file is of no use for drawing images."""
        return False

    def to_ours(self, theirs: Tensors, architecture: Architecture) -> Tensors:
        return theirs

    def from_ours(self, ours: Tensors, architecture: Architecture) -> Tensors:
        return ours

    def refuse(self, architecture: Architecture, objective: Objective) -> None:
        """Raise RequestError where the original's code could not use such weights."""
        if architecture.num_classes == 0:
            raise RequestError("a model without classes: the original has none")
        height, width = architecture.input_size
        if height != width:
            raise RequestError(f"a model of {height} x {width}: the original knows squares alone")


class DiTFormat(Official):
    """facebookresearch/DiT, and fast-DiT: noise, learned variance, 1000 linear betas."""

    name = "dit"
    objective = "ddpm"

    def refuse(self, architecture: Architecture, objective: Objective) -> None:
        super().refuse(architecture, objective)
        if not isinstance(objective, DDPM) or objective.kind != "noise":
            raise RequestError("the original DiT predicts noise on a chain (objective=ddpm)")
        if not is_linear_chain(objective.interpolant):
            raise RequestError("the original DiT has 1000 timesteps of linear betas")


class SiTFormat(Official):
    """willisma/SiT: velocity towards data, time in [0, 1] as it is."""

    name = "sit"
    objective = "rectified_flow"
    options: ClassVar[Mapping[str, Any]] = {"time_scale": 1.0}

    def refuse(self, architecture: Architecture, objective: Objective) -> None:
        super().refuse(architecture, objective)
        if not isinstance(objective, FlowObjective):
            raise RequestError("SiT learns a flow (objective=rectified_flow or flow_matching)")
        if objective.time_scale != 1.0:
            raise RequestError(
                f"SiT feeds time as it is, this model was trained with "
                f"objective.time_scale={objective.time_scale:g}"
            )
        path = objective.interpolant
        known = isinstance(path, Trigonometric | VariancePreserving)
        if not known and not (isinstance(path, Linear) and path.sigma_min == 0):
            raise RequestError("SiT's linear path has objective.sigma_min=0")


def is_linear_chain(chain: DiscreteDiffusion) -> bool:
    """Whether it is the original's: 1000 timesteps, linear betas from 1e-4 to 0.02."""
    return chain.betas.equal(make_betas("linear", 1000))
