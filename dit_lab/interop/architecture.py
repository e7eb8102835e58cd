"""What a model is, as far as the shapes of its weights tell, and the names that it gives them.

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

DIT = "dit_lab.models.dit.DiT"  # as configurations name it
SCALED, GATED = "blocks.0.norm1.weight", "blocks.0.mlp.w12.weight"
NORMED = "blocks.0.attn.q_norm.weight"
ADDED = {SCALED, GATED, NORMED}
"""Tensors of which the original DiT has none: of norm=rms, mlp=swiglu, qk_norm."""
DROPOUT = 0.1  # of labels, where the table has a row for none: what all originals train with
HALF = (torch.float16, torch.bfloat16)
SAME_POSITIONS = 1e-6  # a table is float64 rounded once; sine and cosine may differ in the last bit


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """The arguments of `models.dit.DiT` that decide its weights."""

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
        """The options that the original DiT has not, where they are in use: those with a default
        here."""
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
        """Of the table of labels; 0 without one."""
        return self.num_classes + self.has_null_label

    def shapes(self) -> dict[str, Shape]:
        """Name -> shape of every tensor of our model."""
        with torch.device("meta"):
            return shapes_of(DiT(**asdict(self)).state_dict())


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, Shape]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def configured(
    model: Mapping[str, Any], *, latent: tuple[int, int, int], num_classes: int, learn_sigma: bool
) -> Architecture:
    """The architecture of a model's options, for latents (C, H, W)."""
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
    """The architecture that tensors of our names and these shapes belong to.

    The number of heads and rotary positions leave no trace in them: 0 and none here. A table of
    labels is taken to have a row for the dropped label. Raises RequestError where they are of no
    such model.
    """
    width, channels, patch, _ = shape_of(shapes, "x_embedder.proj.weight", 4)
    _, tokens, _ = shape_of(shapes, "pos_embed", 3)
    (outputs, _) = shape_of(shapes, "final_layer.linear.weight", 2)
    mlp = "swiglu" if GATED in shapes else "gelu"
    (hidden, _) = shape_of(shapes, GATED if mlp == "swiglu" else "blocks.0.mlp.fc1.weight", 2)
    side = math.isqrt(tokens)
    if side * side != tokens:
        raise RequestError(
            f"pos_embed: {tokens} tokens are no square, so height and width are open"
        )
    out_channels = outputs / patch**2
    if out_channels not in (channels, 2 * channels):
        raise RequestError(
            f"final_layer.linear.weight: {outputs} numbers a token are neither {channels} nor "
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
    """The `mlp_ratio` of which two thirds were taken, rounded down: 4 where that fits."""
    return 4.0 if mlp_width(width, 4.0, "swiglu") == hidden else 1.5 * hidden / width


def _depth(shapes: Shapes) -> int:
    return len({name.split(".")[1] for name in shapes if name.startswith("blocks.")})


def shape_of(shapes: Shapes, name: str, dimensions: int) -> Shape:
    """Of a tensor that must be there and have so many dimensions. Raises RequestError."""
    if name not in shapes:
        raise RequestError(f"{name}: missing, so these are not the weights of a DiT")
    if len(shapes[name]) != dimensions:
        raise RequestError(f"{name}: has shape {shapes[name]}, expected {dimensions} dimensions")
    return shapes[name]


def refuse_other_tensors(found: Shapes, expected: Shapes) -> None:
    """Raise RequestError unless the names and shapes are the expected ones."""
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
    """The model's code of its tokens' positions (1, T, D)."""
    rows, columns = (side // architecture.patch_size for side in architecture.input_size)
    return sincos_positions(architecture.hidden_size, rows, columns)[None]


def refuse_other_positions(found: Tensor, architecture: Architecture) -> None:
    """Raise RequestError unless positions (1, T, D) are the sin-cos code, row by row."""
    refuse_difference(
        "pos_embed", found, positions(architecture), within=SAME_POSITIONS, what="the sin-cos code"
    )


def rounding_of(tensor: Tensor) -> float:
    """How far numbers up to 1 may be from what they were before they were kept in fewer bits; 0 for
    float32. Half precision shows in the numbers also where a file keeps them as float32 again."""
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
    """Raise RequestError unless a tensor is `what` follows from the places of the tokens."""
    difference = (found.float() - computed).abs().max().item()
    if not difference <= within + rounding_of(found):
        raise RequestError(
            f"{name}: differs by up to {difference:.2g} from {what} of its tokens' rows and "
            "columns, the only one that the lab's model has"
        )
