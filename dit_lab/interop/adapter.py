"""The base class of weight formats.

An adapter defines the tensor names and shapes of its format, the objective of the weights, and the
conversion in both directions. The base class is for tensors that have the lab's own names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from dit_lab.core.errors import RequestError
from dit_lab.core.types import Objective
from dit_lab.interop.architecture import Architecture, Shape, Shapes, inferred
from dit_lab.interop.files import Tensors, WeightsFile


class Adapter:
    """A weight format, with conversion in both directions."""

    name: ClassVar[str]
    objective: ClassVar[str]  # member of the objective group used in training
    options: ClassVar[Mapping[str, Any]] = {}  # of the objective
    sizes_from: ClassVar[str] = "the shapes"  # source of the architecture, for messages
    additions: ClassVar[bool] = False  # whether it supports more than the original layers

    def objective_of(self, file: WeightsFile) -> tuple[str, Mapping[str, Any]]:
        """Return the objective used in training: the config group member and its options."""
        return self.objective, self.options

    def data_of(self, file: WeightsFile) -> Mapping[str, Any]:
        """Return known facts of the images besides their size: `class_names`, `levels`."""
        return {}

    def architecture(self, file: WeightsFile, shapes: Shapes) -> Architecture:
        """Return the architecture of the weights, with 0 heads if the number is unknown.

        Raises:
            RequestError: if the tensors do not fit the model.
        """
        found = inferred(shapes)
        self._refuse_additions(found)
        return found

    def expected(self, architecture: Architecture) -> dict[str, Shape]:
        """Return name -> shape of every tensor in a file of this format."""
        return architecture.shapes()

    def skipped(self, name: str) -> bool:
        """Return whether a tensor of the file is not needed for sampling."""
        return False

    def to_ours(self, theirs: Tensors, architecture: Architecture) -> Tensors:
        """Convert the tensors of a file to the lab's names and conventions.

        Raises:
            RequestError: if their values cannot be represented.
        """
        return theirs

    def from_ours(self, ours: Tensors, architecture: Architecture) -> Tensors:
        """Convert the lab's tensors to the names and conventions of a file."""
        return ours

    def refuse(self, architecture: Architecture, objective: Objective) -> None:
        """Raise RequestError if the format's code could not use such weights."""
        height, width = architecture.input_size
        if height != width:
            raise RequestError(f"a model of {height} x {width}: this format requires squares")
        self._refuse_additions(architecture)

    def _refuse_additions(self, architecture: Architecture) -> None:
        if architecture.additions and not self.additions:
            options = (f"model.{key}={value}" for key, value in architecture.additions.items())
            told = ", ".join(options).replace("True", "true")
            raise RequestError(f"{told}: this format supports the original's layers only")
