"""Config options inferred from imported weights, with the source of each.

Overrides of the command take precedence.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dit_lab.config import search_path
from dit_lab.config.yaml_files import read_recipe
from dit_lab.core.errors import RequestError
from dit_lab.core.text import counted, key_value
from dit_lab.interop.architecture import Architecture
from dit_lab.interop.formats import Foreign

FACTOR = {4: 8, 16: 8, 32: 16}
"""Latent channels -> downsampling factor, for common autoencoders."""
DECAY = 0.9999  # of the EMAs that the authors of DiT and SiT released
NOT_TOLD = "???"


@dataclass(frozen=True, slots=True)
class InferredOption:
    """An option that an import inferred or assumed, and its source."""

    key: str
    value: Any
    source: str


def typed(overrides: Sequence[str]) -> dict[str, str]:
    """Return the value of each overridden key."""
    parts = (text.lstrip("+").partition("=") for text in overrides)
    return {key: value for key, _, value in parts}


def inferred_keys(
    foreign: Foreign, guessed: Architecture, *, codec: str | None
) -> list[InferredOption]:
    """Return the options inferred from the weights and their format.

    Args:
        foreign: the file and its format.
        guessed: the architecture that the shapes of the tensors imply.
        codec: the codec of the command's overrides, or None.
    """
    size, heads, where = _size(guessed)
    objective, options = foreign.adapter.objective_of(foreign.file)
    codec = codec or ("vae" if guessed.in_channels in FACTOR else "identity")
    factor = 1 if codec == "identity" else FACTOR.get(guessed.in_channels, 8)
    sides = [side * factor for side in guessed.input_size]
    seen = f"the model sees {guessed.input_size[0]} x {guessed.input_size[1]}"
    halved = (
        f", of a codec that halves {counted(factor.bit_length() - 1, 'time')}" if factor > 1 else ""
    )
    shapes = foreign.adapter.sizes_from
    drops = "a" if guessed.has_null_label else "no"
    told_heads = (guessed.num_heads, shapes) if guessed.num_heads else (heads, where)
    return [
        *([InferredOption("model", size, shapes)] if size else []),
        InferredOption("model.hidden_size", guessed.hidden_size, shapes),
        InferredOption("model.depth", guessed.depth, shapes),
        InferredOption("model.num_heads", *told_heads),
        InferredOption("model.mlp_ratio", guessed.mlp_ratio, shapes),
        InferredOption("model.patch_size", guessed.patch_size, shapes),
        InferredOption(
            "model.class_dropout_prob",
            guessed.class_dropout_prob,
            f"{drops} row for the null label",
        ),
        *(
            InferredOption(f"model.{key}", value, shapes)
            for key, value in guessed.additions.items()
        ),
        InferredOption("objective", objective, "the format"),
        InferredOption("objective.learn_sigma", guessed.learn_sigma, shapes),
        *(
            InferredOption(f"objective.{key}", value, "the format")
            for key, value in options.items()
            if key != "learn_sigma"
        ),
        InferredOption("codec", codec, f"{counted(guessed.in_channels, 'channel')}"),
        InferredOption(
            "dataset.image_size", sides if sides[0] != sides[1] else sides[0], seen + halved
        ),
        InferredOption("dataset.num_classes", guessed.num_classes, shapes),
        InferredOption("ema.decays", [DECAY], "the decay of the original code"),
        InferredOption("tracking", "none", "nothing was trained here"),
    ]


def _size(guessed: Architecture) -> tuple[str | None, Any, str]:
    """Return the member of `model=` with this width and depth, its heads, and their source."""
    for name in search_path.choices("model"):
        known = read_recipe(search_path.packaged("conf") / "model" / f"{name}.yaml")
        if (known["hidden_size"], known["depth"]) == (guessed.hidden_size, guessed.depth):
            return name, known["num_heads"], f"model={name}"
    return None, NOT_TOLD, "unknown"


def as_overrides(chosen: list[InferredOption], out: Path, overrides: Sequence[str]) -> list[str]:
    """Return the inferred options as overrides, followed by those of the command.

    An objective that the command chooses gets only those inferred options that it has.

    Raises:
        RequestError: the number of heads is unknown.
    """
    given = typed(overrides)
    objective = given.get("objective")
    kept = [
        item
        for item in chosen
        if item.key not in given
        and not (objective and item.key.startswith("objective.") and not _has(objective, item.key))
    ]
    if any(item.value == NOT_TOLD for item in kept):
        raise RequestError(
            "model.num_heads: cannot be inferred from the weights, and no built-in model has this "
            "width and depth; give model.num_heads=N"
        )
    return [key_value("name", out.name), *map(_override, kept), *overrides]


def _has(objective: str, key: str) -> bool:
    """Return whether a packaged member of `objective=` has an option; False for other members."""
    file = search_path.packaged("conf") / "objective" / f"{objective}.yaml"
    return file.is_file() and key.partition(".")[2] in read_recipe(file)


def _override(item: InferredOption) -> str:
    """Return an option as KEY=VALUE. Raises RequestError if a text is more than a plain word."""
    if isinstance(item.value, str) and not re.fullmatch(r"[\w.-]+", item.value):
        raise RequestError(f"{item.key}: {item.source} says {item.value!a:.60}, which is no word")
    value = {"True": "true", "False": "false", "None": "null"}.get(str(item.value), item.value)
    return f"{item.key}={value}"


def corrected(chosen: list[InferredOption], overrides: Sequence[str]) -> list[InferredOption]:
    """Return the inferred options, with those that the command overrides replaced."""
    given = typed(overrides)
    inferred = [item for item in chosen if item.key not in given]
    return [*inferred, *(InferredOption(key, value, "the command") for key, value in given.items())]
