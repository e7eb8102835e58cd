"""What every format of weights has: names and shapes of its tensors, what they mean, and the way
there and back. As it stands here, for tensors that have our own names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from dit_lab.core.errors import RequestError
from dit_lab.core.types import Objective
from dit_lab.interop.architecture import Architecture, Shape, Shapes, inferred
from dit_lab.interop.files import Tensors, WeightsFile


class Adapter:
    """A format, in both directions."""

    name: ClassVar[str]
    objective: ClassVar[str]  # the group's member that the weights were trained with
    options: ClassVar[Mapping[str, Any]] = {}  # of it
    sizes_from: ClassVar[str] = "the shapes"  # where the architecture is known from
    additions: ClassVar[bool] = False  # whether it knows more than the original DiT's layers

    def objective_of(self, file: WeightsFile) -> tuple[str, Mapping[str, Any]]:
        """The objective's group member, and its options, that the weights were trained with."""
        return self.objective, self.options

    def data_of(self, file: WeightsFile) -> Mapping[str, Any]:
        """What is known of the images besides their size: `class_names`, `levels`."""
        return {}

    def architecture(self, file: WeightsFile, shapes: Shapes) -> Architecture:
        """What the weights belong to; 0 heads where nothing tells. Raises RequestError."""
        found = inferred(shapes)
        self._refuse_additions(found)
        return found

    def expected(self, architecture: Architecture) -> dict[str, Shape]:
        """Name -> shape of every tensor in a file of this format."""
        return architecture.shapes()

    def skipped(self, name: str) -> bool:
        """Whether a tensor of the file is of no use for drawing images."""
        return False

    def to_ours(self, theirs: Tensors, architecture: Architecture) -> Tensors:
        """The tensors of a file by our names. Raises RequestError."""
        return theirs

    def from_ours(self, ours: Tensors, architecture: Architecture) -> Tensors:
        """Our tensors by the names of a file."""
        return ours

    def refuse(self, architecture: Architecture, objective: Objective) -> None:
        """Raise RequestError where the format's code could not use such weights."""
        height, width = architecture.input_size
        if height != width:
            raise RequestError(f"a model of {height} x {width}: this format knows squares alone")
        self._refuse_additions(architecture)

    def _refuse_additions(self, architecture: Architecture) -> None:
        if architecture.additions and not self.additions:
            options = (f"model.{key}={value}" for key, value in architecture.additions.items())
            told = ", ".join(options).replace("True", "true")
            raise RequestError(f"{told}: this format knows the original's layers alone")
