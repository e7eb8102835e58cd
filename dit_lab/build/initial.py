"""Initialisation from the weights of another run, also for other classes, sizes or channels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING

from dit_lab.config.identity import initial_run
from dit_lab.config.recorded import read_recorded
from dit_lab.config.schema import RunConfig
from dit_lab.core.text import counted
from dit_lab.core.types import Shapes
from dit_lab.runs.recorded import recorded_shapes

if TYPE_CHECKING:
    from torch import nn


def load_initial_weights(
    model: nn.Module, config: RunConfig, shapes: Shapes, *, on_message: Callable[[str], None]
) -> None:
    """Load the weights of `init_from`, the first average, into a model.

    Messages name the tensors that were resized or skipped, and options of the objective that differ
    from those of the other run.
    """
    from dit_lab.build.trained import read_weights
    from dit_lab.models.transfer import transfer

    folder, checkpoint = initial_run(config)
    before = read_recorded(folder)
    weights = read_weights(folder, checkpoint, "ema", before)
    data = recorded_shapes(folder).data
    same_labels = data.num_classes == shapes.data.num_classes and (
        not data.class_names or data.class_names == shapes.data.class_names
    )
    done = transfer(model, weights.tensors, same_labels=same_labels)
    on_message(
        f"begins with {weights.name} of {weights.source}: "
        f"{counted(len(done.loaded), 'tensor')} loaded, "
        f"{len(done.resized)} resized, {len(done.skipped)} skipped"
    )
    for what, names in (("resized", done.resized), ("skipped", done.skipped)):
        for name, how in names.items():
            on_message(f"{what}: {name} ({how})")
    for line in _other_meaning(before, config):
        on_message(line)


def _other_meaning(before: RunConfig, config: RunConfig) -> list[str]:
    """Return notes on options of the objective that differ from those of the initial weights."""
    there, here = asdict(before.objective), asdict(config.objective)
    keys = [key for key in there if key in here and there[key] != here[key]]
    if there["_target_"] != here["_target_"]:
        keys = ["_target_"] + [key for key in keys if key == "time_scale"]
    return [
        f"note: objective.{key}={here[key]} differs from {there[key]} of the initial weights"
        for key in keys
    ]
