"""Options of the training methods, and what they need of the model. Torch-free."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from dit_lab.core.calls import EARLY, HeadNeed, ModelNeeds, Routed
from dit_lab.core.errors import RequestError
from dit_lab.core.options import Component, option

# Annotations are evaluated by OmegaConf 2.3, which knows Optional[...] but not X | None.
# ruff: noqa: UP045

PROJECTOR = ("mlp", "convolution")


@dataclass(frozen=True, slots=True)
class Work:
    """What a method changes in the cost of training."""

    plain: float = 0.0  # further evaluations of the model without gradient, per image
    routed: Routed | None = None


# ---- blocks -------------------------------------------------------------------------------------


def early_block(depth: int) -> int:
    """Return the block after a quarter of the blocks, from 1."""
    return max(1, round(depth / 4))


def middle_block(depth: int) -> int:
    """Return the block after 2/7 of the blocks, the 8th of 28."""
    return max(1, round(2 * depth / 7))


def late_block(depth: int) -> int:
    """Return the block after 5/7 of the blocks, the 20th of 28."""
    return max(1, round(5 * depth / 7))


def tread_span(depth: int, first: int | None, last: int | None) -> tuple[int, int]:
    """Return the first and last block of the route of TREAD, 3 and 24 of 28 by default."""
    return first or max(2, 1 + round(depth / 14)), last or depth - max(1, round(depth / 7))


def sprint_span(depth: int, first: int | None, last: int | None) -> tuple[int, int]:
    """Return the first and last block of the route of SPRINT, all but two at each end."""
    ends = 2 if depth >= 6 else 1
    return first or 1 + ends, last or depth - ends


def computed_tokens(tokens: int, share: float) -> int:
    """Return the number of tokens that a route computes, at least one."""
    return max(1, tokens - round(share * tokens))


# ---- needs --------------------------------------------------------------------------------------


def repa_needs(
    *, depth: int, block: int | None, projector: str, hidden_width: int, features: int
) -> ModelNeeds:
    """Return the head that projects tokens to features of this width."""
    after = block or middle_block(depth)
    if projector == "convolution":
        head = HeadNeed("repa", after=after, widths=(features,), kernel=3)
    else:
        head = HeadNeed("repa", after=after, widths=(hidden_width, hidden_width, features))
    return ModelNeeds(heads=(head,))


def sra_needs(*, width: int, depth: int, block: int | None) -> ModelNeeds:
    """Return the head that projects tokens to tokens of the model's width."""
    after = block or middle_block(depth)
    return ModelNeeds(heads=(HeadNeed("sra", after=after, widths=(2 * width, width)),))


def internal_needs(*, depth: int, block: int | None) -> ModelNeeds:
    """Return the early output, which sampling uses."""
    return ModelNeeds(heads=(HeadNeed(EARLY, after=block or middle_block(depth), sampled=True),))


TEACHERS = ("classifier", "random")
"""Teachers that are no folders."""

ENDS = 2**20
"""Bytes at each end of a file of weights that its fingerprint covers, besides its size."""

CLASSIFIER_WIDTH = 64
"""Width of the last feature map of the lab's own classifier."""


def encoder_width(teacher: str, features: int) -> int:
    """Return the width of the features of a teacher, by its name or folder. Raises RequestError."""
    if teacher == "random":
        return features
    if teacher == "classifier":
        return CLASSIFIER_WIDTH
    try:
        return int(json.loads((Path(teacher) / "config.json").read_text())["hidden_size"])
    except (OSError, ValueError, KeyError, TypeError):
        raise RequestError(
            f"teacher={teacher}: holds no encoder; give classifier, random, or a folder with "
            "weights and config.json, which says hidden_size, as transformers saves a model"
        ) from None


def encoder_fingerprint(folder: str) -> str:
    """Return 64 hex digits: a hash of the encoder in a folder, of its configuration and weights.

    Of each file of weights it covers the name, the size, and both ends: the first holds the names
    and shapes of all tensors.
    """
    known = hashlib.sha256()
    for file in sorted(Path(folder).iterdir()):
        if file.suffix == ".json":
            known.update(file.name.encode() + file.read_bytes())
        elif file.suffix == ".safetensors":
            size = file.stat().st_size
            known.update(f"{file.name} {size}".encode())
            with file.open("rb") as weights:
                known.update(weights.read(ENDS))
                weights.seek(max(0, size - ENDS))
                known.update(weights.read())
    return known.hexdigest()


# ---- options ------------------------------------------------------------------------------------


@dataclass
class Method(Component):
    """Options of every method of this package."""

    @property
    def is_off(self) -> bool:
        """Whether the method is at zero strength, and left out."""
        return bool(self.weight == 0)

    def needs_of(self, *, width: int, depth: int) -> ModelNeeds:
        """Return what the model must have."""
        return ModelNeeds()

    def work(self, *, depth: int) -> Work:
        """Return what it changes in the cost of training."""
        return Work()

    @property
    def blocks(self) -> dict[str, int | None]:
        """Blocks by the name of their option, for checks."""
        return {"block": getattr(self, "block", None)}


@dataclass
class Repa(Method):
    weight: float = option(0.5, at_least=0, help="weight of the loss")
    teacher: str = option(
        "classifier",
        help="FOLDER of an encoder for transformers, classifier (the lab's own), or random",
    )
    features: int = option(
        64, at_least=1, at_most=65_536, help="width of the features of teacher=random"
    )
    block: Optional[int] = option(
        None, at_least=1, help="block whose tokens are projected; null: 2/7 of the blocks"
    )
    projector: str = option("mlp", choices=PROJECTOR, help="MLP of three layers, or 3 x 3 (iREPA)")
    hidden_width: int = option(2048, at_least=1, at_most=65_536, help="width of the MLP's layers")
    spatial_mean: Optional[float] = option(
        None, at_least=0, at_most=1, help="share of the features' mean that is removed; null: none"
    )
    until: float = option(
        1.0, at_least=0, at_most=1, help="share of the training after which the loss is 0"
    )

    @property
    def depends_on_end(self) -> bool:
        """Whether a term depends on the number of steps."""
        return self.until < 1

    @property
    def feature_width(self) -> int:
        """Width of the teacher's features."""
        return encoder_width(self.teacher, self.features)

    def needs_of(self, *, width: int, depth: int) -> ModelNeeds:
        return repa_needs(
            depth=depth,
            block=self.block,
            projector=self.projector,
            hidden_width=self.hidden_width,
            features=self.feature_width,
        )

    def check_together(self) -> None:
        encoder_width(self.teacher, self.features)


@dataclass
class Sra(Method):
    weight: float = option(0.5, at_least=0, help="weight of the loss")
    student_block: Optional[int] = option(
        None, at_least=1, help="block whose tokens are projected; null: 2/7 of the blocks"
    )
    teacher_block: Optional[int] = option(
        None, at_least=1, help="block of the averaged model; null: 5/7 of the blocks"
    )
    distance: float = option(
        0.2, at_least=0, at_most=1, help="largest distance of the teacher's time"
    )

    def needs_of(self, *, width: int, depth: int) -> ModelNeeds:
        return sra_needs(width=width, depth=depth, block=self.student_block)

    def work(self, *, depth: int) -> Work:
        return Work(plain=(self.teacher_block or late_block(depth)) / depth)

    @property
    def blocks(self) -> dict[str, int | None]:
        return {"student_block": self.student_block, "teacher_block": self.teacher_block}


@dataclass
class Dispersive(Method):
    weight: float = option(0.25, at_least=0, help="weight of the loss")
    block: Optional[int] = option(
        None, at_least=1, help="block whose tokens are dispersed; null: 1/4 of the blocks"
    )
    temperature: float = option(1.0, above=0, help="tau of the loss")
    group_images: int = option(
        32, at_least=2, help="images per group; must divide the micro-batch of a process"
    )


@dataclass
class Contrastive(Method):
    weight: float = option(0.05, at_least=0, below=1, help="lambda: weight of the loss")
    group_images: int = option(
        32, at_least=2, help="images per group; must divide the micro-batch of a process"
    )


@dataclass
class Tread(Method):
    share: float = option(0.5, at_least=0, below=1, help="share of tokens that skip the blocks")
    first: Optional[int] = option(None, at_least=1, help="first of these blocks; null: by depth")
    last: Optional[int] = option(None, at_least=1, help="last of these blocks; null: by depth")

    @property
    def is_off(self) -> bool:
        return self.share == 0

    def span(self, depth: int) -> tuple[int, int]:
        """Return the first and last block of the route."""
        return tread_span(depth, self.first, self.last)

    def work(self, *, depth: int) -> Work:
        first, last = self.span(depth)
        return Work(routed=Routed(last - first + 1, self.share))

    @property
    def blocks(self) -> dict[str, int | None]:
        return {"first": self.first, "last": self.last}

    def check_together(self) -> None:
        if self.first is not None and self.last is not None and self.first > self.last:
            raise RequestError(f"first={self.first}: is after last={self.last}")


@dataclass
class Sprint(Tread):
    share: float = option(0.75, at_least=0, below=1, help="share of tokens that skip the blocks")
    until: float = option(
        0.9, at_least=0, at_most=1, help="share of the training after which all are computed"
    )

    @property
    def depends_on_end(self) -> bool:
        """Whether the route depends on the number of steps."""
        return self.until < 1

    def span(self, depth: int) -> tuple[int, int]:
        return sprint_span(depth, self.first, self.last)

    def needs_of(self, *, width: int, depth: int) -> ModelNeeds:
        return ModelNeeds(fusion=self.span(depth))

    def work(self, *, depth: int) -> Work:
        first, last = self.span(depth)
        return Work(routed=Routed(last - first + 1, self.share, self.until))


@dataclass
class InternalGuidance(Method):
    weight: float = option(0.5, at_least=0, help="weight of the loss of the early output")
    block: Optional[int] = option(
        None, at_least=1, help="block after which it comes; null: 2/7 of the blocks"
    )

    def needs_of(self, *, width: int, depth: int) -> ModelNeeds:
        return internal_needs(depth=depth, block=self.block)


COMPONENTS: dict[str, dict[str, type[Component]]] = {
    "method": {
        "dit_lab.methods.alignment.Repa": Repa,
        "dit_lab.methods.alignment.Sra": Sra,
        "dit_lab.methods.pairs.Dispersive": Dispersive,
        "dit_lab.methods.pairs.Contrastive": Contrastive,
        "dit_lab.methods.routing.Tread": Tread,
        "dit_lab.methods.routing.Sprint": Sprint,
        "dit_lab.methods.internal.InternalGuidance": InternalGuidance,
    }
}
