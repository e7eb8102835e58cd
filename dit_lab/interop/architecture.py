"""Model architectures inferred from tensor shapes, and checks of tensors.

Shapes: D width, C channels in, K channels out, p patch size, T tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor

from dit_lab.core.cost import mlp_width
from dit_lab.core.errors import RequestError
from dit_lab.models.dit import DiT
from dit_lab.models.embeddings import sincos_positions

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]

DIT = "dit_lab.models.dit.DiT"  # as in configs
SCALED, GATED = "blocks.0.norm1.weight", "blocks.0.mlp.w12.weight"
NORMED = "blocks.0.attn.q_norm.weight"
ADDED = {SCALED, GATED, NORMED}
"""Tensors of norm=rms, mlp=swiglu and qk_norm, which the original DiT does not have."""
DROPOUT = 0.1  # label dropout with a null label; used by all originals
HALF = (torch.float16, torch.bfloat16)
SAME_POSITIONS = 1e-6  # tables are rounded from float64; last bits may differ


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """The arguments of `models.dit.DiT` that determine its parameters."""

    input_size: tuple[int, int]
    patch_size: int
    in_channels: int
    hidden_size: int
    depth: int
    num_heads: int
    mlp_ratio: float
    num_classes: int
    class_dropout_prob: float
    learn_sigma: bool
    norm: str = "layer"
    mlp: str = "gelu"
    rope: bool = False
    qk_norm: bool = False

    @property
    def additions(self) -> dict[str, Any]:
        """Options beyond the original DiT that are in use: the fields with a default."""
        chosen = {field.name: getattr(self, field.name) for field in fields(self)}
        plain = {field.name: field.default for field in fields(self)}
        return {
            name: value
            for name, value in chosen.items()
            if plain[name] is not MISSING and value != plain[name]
        }

    @property
    def out_channels(self) -> int:
        return self.in_channels * (2 if self.learn_sigma else 1)

    @property
    def has_null_label(self) -> bool:
        return self.num_classes > 0 and self.class_dropout_prob > 0

    @property
    def label_rows(self) -> int:
        """Rows of the label embedding table; 0 without one."""
        return self.num_classes + self.has_null_label

    def shapes(self) -> dict[str, Shape]:
        """Return name -> shape of every tensor of the lab's model."""
        with torch.device("meta"):
            return shapes_of(DiT(**asdict(self)).state_dict())


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, Shape]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def configured(
    model: Mapping[str, Any], *, latent: tuple[int, int, int], num_classes: int, learn_sigma: bool
) -> Architecture:
    """Return the architecture of a model config, for latents (C, H, W)."""
    channels, height, width = latent
    options = (
        "patch_size", "hidden_size", "depth", "num_heads", "mlp_ratio", "class_dropout_prob",
        "norm", "mlp", "rope", "qk_norm",
    )  # fmt: skip
    return Architecture(
        input_size=(height, width),
        in_channels=channels,
        num_classes=num_classes,
        learn_sigma=learn_sigma,
        **{name: model[name] for name in options},
    )


def inferred(shapes: Shapes) -> Architecture:
    """Return the architecture of tensors with the lab's names and these shapes.

    Shapes do not reveal the number of heads and rotary positions: the result has 0 heads and no
    rotary positions. A label table is assumed to have a row for the null label.

    Raises:
        RequestError: if the shapes do not fit the model.
    """
    width, channels, patch, _ = shape_of(shapes, "x_embedder.proj.weight", 4)
    _, tokens, _ = shape_of(shapes, "pos_embed", 3)
    (outputs, _) = shape_of(shapes, "final_layer.linear.weight", 2)
    mlp = "swiglu" if GATED in shapes else "gelu"
    (hidden, _) = shape_of(shapes, GATED if mlp == "swiglu" else "blocks.0.mlp.fc1.weight", 2)
    side = math.isqrt(tokens)
    if side * side != tokens:
        raise RequestError(
            f"pos_embed: {tokens} tokens do not form a square, so height and width are unknown"
        )
    out_channels = outputs / patch**2
    if out_channels not in (channels, 2 * channels):
        raise RequestError(
            f"final_layer.linear.weight: {outputs} outputs per token are neither {channels} nor "
            f"{2 * channels} channels of {patch} x {patch} pixels"
        )
    table = shapes.get("y_embedder.embedding_table.weight", (0,))
    return Architecture(
        input_size=(side * patch, side * patch),
        patch_size=patch,
        in_channels=channels,
        hidden_size=width,
        depth=_depth(shapes),
        num_heads=0,
        mlp_ratio=hidden / width if mlp == "gelu" else _gated_ratio(hidden // 2, width),
        num_classes=max(table[0] - 1, 0),
        class_dropout_prob=DROPOUT,
        learn_sigma=out_channels == 2 * channels,
        norm="rms" if SCALED in shapes else "layer",
        mlp=mlp,
        qk_norm=NORMED in shapes,
    )


def _gated_ratio(hidden: int, width: int) -> float:
    """Return the `mlp_ratio` for a SwiGLU of this hidden width: 4 if it gives that width.

    SwiGLU uses two thirds of the ratio, rounded down.
    """
    return 4.0 if mlp_width(width, 4.0, "swiglu") == hidden else 1.5 * hidden / width


def _depth(shapes: Shapes) -> int:
    return len({name.split(".")[1] for name in shapes if name.startswith("blocks.")})


def shape_of(shapes: Shapes, name: str, dimensions: int) -> Shape:
    """Return the shape of a tensor; raise RequestError if it is missing or of other dimensions."""
    if name not in shapes:
        raise RequestError(f"{name}: missing, so these are not the weights of a DiT")
    if len(shapes[name]) != dimensions:
        raise RequestError(f"{name}: has shape {shapes[name]}, expected {dimensions} dimensions")
    return shapes[name]


def refuse_other_tensors(found: Shapes, expected: Shapes) -> None:
    """Raise RequestError unless names and shapes are as expected."""
    missing = sorted(expected.keys() - found.keys())
    unknown = sorted(found.keys() - expected.keys())
    wrong = sorted(name for name in expected.keys() & found.keys() if expected[name] != found[name])
    troubles = [
        f"{len(names)} {what}, such as {names[0]}"
        for what, names in (("are missing", missing), ("are unknown", unknown))
        if names
    ]
    if wrong:
        name = wrong[0]
        troubles.append(f"{name} has shape {found[name]}, expected {expected[name]}")
    if troubles:
        raise RequestError(f"not the tensors of this model: {'; '.join(troubles)}")


def positions(architecture: Architecture) -> Tensor:
    """Return the model's sin-cos position embedding (1, T, D)."""
    rows, columns = (side // architecture.patch_size for side in architecture.input_size)
    return sincos_positions(architecture.hidden_size, rows, columns)[None]


def refuse_other_positions(found: Tensor, architecture: Architecture) -> None:
    """Raise RequestError unless positions (1, T, D) are the sin-cos embedding, row by row."""
    refuse_difference(
        "pos_embed", found, positions(architecture), within=SAME_POSITIONS, what="the sin-cos code"
    )


def rounding_of(tensor: Tensor) -> float:
    """Return the rounding error of numbers up to 1 in the precision of a tensor; 0 for float32.

    Half precision is also detected in the values of a float32 tensor.
    """
    exact = tensor.float()
    kept = {tensor.dtype, *(HALF if tensor.numel() else ())} - {torch.float32, torch.float64}
    return max(
        (
            torch.finfo(dtype).eps / 2
            for dtype in kept
            if tensor.dtype == dtype or torch.equal(exact.to(dtype).float(), exact)
        ),
        default=0.0,
    )


def refuse_difference(
    name: str, found: Tensor, computed: Tensor, *, within: float, what: str
) -> None:
    """Raise RequestError unless a tensor equals the computed one, called `what`, up to rounding."""
    difference = (found.float() - computed).abs().max().item()
    if not difference <= within + rounding_of(found):
        raise RequestError(
            f"{name}: differs by up to {difference:.2g} from {what} of its tokens' rows and "
            "columns, the only one that the lab's model has"
        )
