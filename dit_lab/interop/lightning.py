"""LightningDiT (Yao et al. 2025, "Reconstruction vs. Generation"): SiT's flow with a newer DiT.

RMSNorm, SwiGLU, rotary positions, and query and key norms are options. Its tensors have the lab's
names, plus the cosines and sines of rotary positions, whose shape gives the head size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor

from dit_lab.core.errors import RequestError
from dit_lab.interop.architecture import (
    ADDED,
    Architecture,
    Shape,
    Shapes,
    refuse_difference,
    shape_of,
)
from dit_lab.interop.files import Tensors, WeightsFile
from dit_lab.interop.official import SiTFormat
from dit_lab.models.embeddings import RotaryPositions

COS, SIN = "feat_rope.freqs_cos", "feat_rope.freqs_sin"
MARKS = {COS, *ADDED}
"""Tensors that the original DiT and SiT do not have."""
MODULATION = "blocks.0.adaLN_modulation.1.weight"
SAME_ANGLES = 1e-5  # its angles are computed in float32
WITHOUT_SHIFT = 4  # modulation vectors of a block without shifts, instead of 6


class LightningDiTFormat(SiTFormat):
    """hustvl/LightningDiT: velocity towards data, unscaled time in [0, 1]."""

    name = "lightningdit"
    code = "LightningDiT"
    additions: ClassVar[bool] = True

    def objective_of(self, file: WeightsFile) -> tuple[str, Mapping[str, Any]]:
        """Return SiT's objective, with logit-normal times and direction loss if they were used."""
        transport = section(file, "transport")
        name, options = super().objective_of(replace(file, args=dict(transport)))
        more: dict[str, Any] = {}
        if transport.get("use_lognorm"):
            more["time_sampling"] = "logit_normal"
        if transport.get("use_cosine_loss") and name == "rectified_flow":
            more["direction_weight"] = 1.0
        return name, {**options, **more}

    def architecture(self, file: WeightsFile, shapes: Shapes) -> Architecture:
        found = super().architecture(file, shapes)
        width = found.hidden_size
        if shapes.get(MODULATION) == (WITHOUT_SHIFT * width, width):
            raise RequestError(
                f"{MODULATION}: a model without shifts (wo_shift), unsupported by the lab's DiT"
            )
        if COS not in shapes:
            return found
        _, head_size = shape_of(shapes, COS, 2)
        return replace(found, rope=True, num_heads=width // head_size if head_size else 0)

    def expected(self, architecture: Architecture) -> dict[str, Shape]:
        angles = {name: tuple(tensor.shape) for name, tensor in _angles(architecture).items()}
        return {**architecture.shapes(), **angles}

    def to_ours(self, theirs: Tensors, architecture: Architecture) -> Tensors:
        """Convert to the lab's tensors; raise RequestError if the stored angles differ."""
        angles = _angles(architecture)
        for name, computed in angles.items():
            refuse_difference(name, theirs[name], computed, within=SAME_ANGLES, what="that")
        return {name: tensor for name, tensor in theirs.items() if name not in angles}

    def from_ours(self, ours: Tensors, architecture: Architecture) -> Tensors:
        return {**ours, **_angles(architecture)}


def section(file: WeightsFile, name: str) -> Mapping[str, Any]:
    """Return a section of the config that a file was trained with; {} if there is none."""
    found = file.args.get(name)
    return found if isinstance(found, Mapping) else {}


def _angles(architecture: Architecture) -> dict[str, Tensor]:
    """Return the rotary buffers (T, D / h); {} without rotary positions."""
    if not architecture.rope:
        return {}
    side = architecture.input_size[0] // architecture.patch_size
    rotary = RotaryPositions(architecture.hidden_size // architecture.num_heads, side, side)
    return {COS: rotary.cos.repeat_interleave(2, 1), SIN: rotary.sin.repeat_interleave(2, 1)}
